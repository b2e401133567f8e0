-- Items per model, by how they ended.
local list = {}
for _, model in ipairs(redis.call('SMEMBERS', 'vp:models')) do
  list[#list + 1] = {model, redis.call('HGETALL', 'vp:accounts:' .. model)}
end
return list
