-- Items per model, by how they ended.
local out = {}
for _, name in ipairs(redis.call('SMEMBERS', 'vp:lanes')) do
  local model = string.match(name, '^([^@:]*)')
  out[model] = true
end
local list = {}
for model, _ in pairs(out) do list[#list + 1] = {model, redis.call('HGETALL', 'vp:accounts:' .. model)} end
return list
