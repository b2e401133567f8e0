-- Items per model, by how they ended.
local list = {}
for _, model in ipairs(redis.call('SMEMBERS', 'vp:models')) do
  local account = redis.pcall('HGETALL', 'vp:accounts:' .. model)
  if not account.err then list[#list + 1] = {model, account} end
end
return list
