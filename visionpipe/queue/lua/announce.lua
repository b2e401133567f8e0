-- ARGV: worker, record JSON, valid_ms (0 = retire), model, digest, lanes...
local worker, now, valid = ARGV[1], now_ms(), tonumber(ARGV[3])
despite_full_memory()
for i = 6, #ARGV do
  for _, target in ipairs({ARGV[4], ARGV[4] .. '@' .. ARGV[5]}) do
    local key = 'vp:serving:' .. lane_name(target, ARGV[i])
    redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
    if valid > 0 then
      redis.call('ZADD', key, now + valid, worker)
      redis.call('SADD', 'vp:lanes', lane_name(target, ARGV[i]))
    else
      redis.call('ZREM', key, worker)
    end
  end
end
if valid > 0 then
  redis.call('HSET', 'vp:workers', worker, ARGV[2])
  redis.call('ZADD', 'vp:beats', now + valid, worker)
  redis.call('HSET', 'vp:beaten', worker, now)
else
  redis.call('HDEL', 'vp:workers', worker)
  redis.call('HDEL', 'vp:beaten', worker)
  redis.call('ZREM', 'vp:beats', worker)
end
return now
