-- ARGV: job, with_items, then the fields wanted. Answers {values, items as flat list}.
-- The request, which may be large, is left where it is.
local fields = {}
for i = 3, #ARGV do fields[#fields + 1] = ARGV[i] end
local record = redis.call('HMGET', 'vp:job:' .. ARGV[1], unpack(fields))
local items = {}
if ARGV[2] == '1' then items = redis.call('HGETALL', 'vp:items:' .. ARGV[1]) end
return {record, items}
