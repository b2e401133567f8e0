-- ARGV: job, token, progress JSON.
despite_full_memory()
local record = read(ARGV[1], 'state', 'token', 'client')
if record.state ~= 'running' or record.token ~= ARGV[2] then return 'lost' end
redis.call('HSET', 'vp:job:' .. ARGV[1], 'progress', ARGV[3])
note_running(ARGV[1], record.client, now_ms())
return 'ok'
