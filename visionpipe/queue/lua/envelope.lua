-- ARGV: job, with_items. Answers {record as flat list, items as flat list}.
local record = redis.call('HGETALL', 'vp:job:' .. ARGV[1])
local items = {}
if ARGV[2] == '1' and #record > 0 then items = redis.call('HGETALL', 'vp:items:' .. ARGV[1]) end
return {record, items}
