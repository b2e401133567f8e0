-- ARGV: job, token, progress JSON.
local record = read(ARGV[1], 'state', 'token', 'client', 'noted_at')
if record.state ~= 'running' or record.token ~= ARGV[2] then return 'lost' end
redis.call('HSET', 'vp:job:' .. ARGV[1], 'progress', ARGV[3])
local now = now_ms()
if now - tonumber(record.noted_at or 0) >= 1000 then
  redis.call('HSET', 'vp:job:' .. ARGV[1], 'noted_at', now)
  notify(record.client, ARGV[1], 'running')
end
return 'ok'
