-- ARGV: template, max_attempts, max_marks, grace_ms, sweep_ms, limit. Answers {lapsed, expired, reticketed}.
local template, max_attempts, max_marks = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local grace, sweep, limit = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local now = now_ms()
local lapsed, expired, reticketed = 0, 0, 0
for _, job in ipairs(redis.call('ZRANGEBYSCORE', 'vp:leases', '-inf', now, 'LIMIT', 0, limit)) do
  if lapse(job, now, template, max_attempts, max_marks) then lapsed = lapsed + 1 end
end
for _, job in ipairs(redis.call('ZRANGEBYSCORE', 'vp:deadlines', '-inf', now, 'LIMIT', 0, limit)) do
  local record = load_job(job)
  if not record.state then
    redis.call('ZREM', 'vp:deadlines', job)
  elseif record.state == 'queued' or tonumber(record.deadline_at) + grace <= now then
    end_job(job, record, 'expired', error_json('deadline_exceeded', 'The deadline passed before every image had an outcome.'), now)
    expired = expired + 1
  end
end
-- A list shorter than its set of queued jobs has lost tickets; it must stay so for a whole sweep, since a ticket
-- on its way from the list to its claim looks the same.
for _, name in ipairs(redis.call('SMEMBERS', 'vp:lanes')) do
  local queued = redis.call('ZCARD', 'vp:queued:' .. name)
  local missing = queued - redis.call('LLEN', 'vp:' .. name)
  local since = tonumber(redis.call('HGET', 'vp:short', name) or 0)
  if missing <= 0 then
    if since > 0 then redis.call('HDEL', 'vp:short', name) end
  elseif since == 0 then
    redis.call('HSET', 'vp:short', name, now)
  elseif now - since >= sweep then
    local target, lane = string.match(name, '^(.*):(%a+)$')
    local oldest = redis.call('ZRANGE', 'vp:queued:' .. name, 0, math.min(missing, limit) - 1)
    for i = #oldest, 1, -1 do
      redis.call('RPUSH', 'vp:' .. name, ticket(template, oldest[i], target, lane, now))
      reticketed = reticketed + 1
    end
    redis.call('HDEL', 'vp:short', name)
  end
end
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', 'vp:beats', '-inf', now - 60000)) do
  redis.call('ZREM', 'vp:beats', worker)
  redis.call('HDEL', 'vp:workers', worker)
  redis.call('HDEL', 'vp:beaten', worker)
end
return {lapsed, expired, reticketed}
