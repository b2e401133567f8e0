-- Live workers, as a flat list of record JSON and time of the last beat.
local now, out = now_ms(), {}
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', 'vp:beats', now, '+inf')) do
  local raw = redis.call('HGET', 'vp:workers', worker)
  if raw then
    out[#out + 1] = raw
    out[#out + 1] = redis.call('HGET', 'vp:beaten', worker) or '0'
  end
end
return out
