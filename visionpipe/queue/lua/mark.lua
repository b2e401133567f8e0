-- ARGV: job, token, index. Names the image whose work comes next, so that a death convicts it alone.
despite_full_memory()
local record = read(ARGV[1], 'state', 'token')
if record.state ~= 'running' or record.token ~= ARGV[2] then return 'lost' end
redis.call('HSET', 'vp:job:' .. ARGV[1], 'mark', ARGV[3])
return 'ok'
