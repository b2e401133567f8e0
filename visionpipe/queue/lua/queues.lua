local now, out = now_ms(), {}
local function look(name)
  local oldest = redis.call('ZRANGE', 'vp:queued:' .. name, 0, 0, 'WITHSCORES')
  out[#out + 1] = {name, redis.call('ZCARD', 'vp:queued:' .. name), tonumber(redis.call('HGET', 'vp:depth', name) or 0),
    tonumber(redis.call('HGET', 'vp:running', name) or 0), oldest[2] and tostring(now - tonumber(oldest[2])) or ''}
end
for _, name in ipairs(redis.call('SMEMBERS', 'vp:lanes')) do pcall(look, name) end
return out
