-- Live workers: {record JSON, beat_ms, valid_until...}. ARGV: valid_ms
local now, out = now_ms(), {}
local live = redis.call('ZRANGEBYSCORE', 'vp:beats', now, '+inf', 'WITHSCORES')
for i = 1, #live, 2 do
  local raw = redis.call('HGET', 'vp:workers', live[i])
  if raw then
    out[#out + 1] = raw
    out[#out + 1] = tostring(live[i + 1])
  end
end
return out
