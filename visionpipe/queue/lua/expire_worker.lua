-- ARGV: worker, template, max_attempts, max_marks. Its supervisor saw it die; nobody need wait for its leases.
local worker, now = ARGV[1], now_ms()
despite_full_memory()
local lapsed = 0
for _, job in ipairs(redis.call('SMEMBERS', 'vp:holds:' .. worker)) do
  local record = read(job, 'worker')
  if record.worker == worker and lapse(job, now, ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])) then lapsed = lapsed + 1 end
end
redis.call('DEL', 'vp:holds:' .. worker, 'vp:ctl:' .. worker)
local raw = redis.call('HGET', 'vp:workers', worker)
if raw then
  pcall(function()
    local told = cjson.decode(raw)
    for _, lane in ipairs(told.lanes) do
      for _, target in ipairs({told.model, told.model .. '@' .. told.digest}) do
        redis.call('ZREM', 'vp:serving:' .. lane_name(target, lane), worker)
      end
    end
  end)
end
redis.call('HDEL', 'vp:workers', worker)
redis.call('HDEL', 'vp:beaten', worker)
redis.call('ZREM', 'vp:beats', worker)
return lapsed
