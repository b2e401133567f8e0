-- ARGV: template, max_attempts, max_marks, grace_ms, sweep_ms, limit. Answers {lapsed, expired, reticketed, broken}.
local template, max_attempts, max_marks = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local grace, sweep, limit = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local now = now_ms()
despite_full_memory()
local lapsed, expired, reticketed, broken = 0, 0, 0, 0
for _, job in ipairs(redis.call('ZRANGEBYSCORE', 'vp:leases', '-inf', now, 'LIMIT', 0, limit)) do
  local well, did = pcall(lapse, job, now, template, max_attempts, max_marks)
  if not well then
    redis.call('ZREM', 'vp:leases', job)
    broken = broken + 1
  elseif did then
    lapsed = lapsed + 1
  end
end
for _, job in ipairs(redis.call('ZRANGEBYSCORE', 'vp:deadlines', '-inf', now, 'LIMIT', 0, limit)) do
  local record = load_job(job)
  if (record.state ~= 'queued' and record.state ~= 'running') or not record.deadline_at then
    redis.call('ZREM', 'vp:deadlines', job)
  elseif record.state == 'queued' or tonumber(record.deadline_at) + grace <= now then
    end_job(job, record, 'expired', expiry_json(), now)
    expired = expired + 1
  end
end

local function write_tickets(name, jobs, command)
  local target, lane = string.match(name, '^(.*):(%a+)$')
  for _, job in ipairs(jobs) do
    local state = load_job(job).state
    if state == 'queued' then
      redis.call(command, 'vp:' .. name, ticket(template, job, target, lane, now))
      reticketed = reticketed + 1
    else
      if state == 'broken' then broken = broken + 1 end
      redis.call('ZREM', 'vp:queued:' .. name, job)
    end
  end
end

-- A ticket costs some 40 us and nobody else is served meanwhile: the next sweeps write the rest.
local function rewrite(name)
  redis.call('DEL', 'vp:' .. name)
  write_tickets(name, redis.call('ZRANGE', 'vp:queued:' .. name, 0, 10 * limit - 1), 'LPUSH')
end

-- Nothing waits: tickets still there are those of cancelled jobs, and a lane that nobody serves is forgotten, or every
-- digest that was ever pinned would stay.
local function tidy(name)
  redis.call('DEL', 'vp:' .. name)
  redis.call('HDEL', 'vp:short', name)
  redis.call('HDEL', 'vp:depth', name)
  local running = tonumber(redis.call('HGET', 'vp:running', name) or 0)
  if running == 0 and redis.call('ZCOUNT', 'vp:serving:' .. name, now, '+inf') == 0 then
    redis.call('DEL', 'vp:serving:' .. name)
    redis.call('HDEL', 'vp:running', name)
    redis.call('SREM', 'vp:lanes', name)
  end
end

local function sweep_lane(name)
  local queued, tickets = redis.call('ZCARD', 'vp:queued:' .. name), redis.call('LLEN', 'vp:' .. name)
  local since, missing = tonumber(redis.call('HGET', 'vp:short', name) or 0), queued - tickets
  if queued == 0 then
    tidy(name)
  elseif tickets > 2 * queued + 1000 then
    -- Cancelled jobs leave their tickets; where no worker drops them they would pile up.
    rewrite(name)
  elseif missing <= 0 then
    if since > 0 then redis.call('HDEL', 'vp:short', name) end
  elseif since == 0 then
    -- It must stay so for a whole sweep: a ticket on its way from the list to its claim looks the same.
    redis.call('HSET', 'vp:short', name, now)
  elseif now - since >= sweep then
    if missing > limit then
      rewrite(name)
    else
      local oldest = {}
      for _, job in ipairs(redis.call('ZRANGE', 'vp:queued:' .. name, 0, missing - 1)) do table.insert(oldest, 1, job) end
      write_tickets(name, oldest, 'RPUSH')
      redis.call('HDEL', 'vp:short', name)
    end
  end
end

-- A key of the wrong type, or a lane that is none.
local function mend_lane(name)
  if redis.call('TYPE', 'vp:' .. name).ok ~= 'list' then redis.call('UNLINK', 'vp:' .. name) end
  if redis.call('TYPE', 'vp:queued:' .. name).ok ~= 'zset' then redis.call('UNLINK', 'vp:queued:' .. name) end
  redis.call('HDEL', 'vp:short', name)
  if not string.find(name, ':%a+$') then redis.call('SREM', 'vp:lanes', name) end
  broken = broken + 1
end

for _, name in ipairs(redis.call('SMEMBERS', 'vp:lanes')) do
  if not pcall(sweep_lane, name) then mend_lane(name) end
end
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', 'vp:beats', '-inf', now - 60000)) do
  redis.call('ZREM', 'vp:beats', worker)
  redis.call('HDEL', 'vp:workers', worker)
  redis.call('HDEL', 'vp:beaten', worker)
  for _, job in ipairs(redis.call('SMEMBERS', 'vp:holds:' .. worker)) do
    if not redis.call('ZSCORE', 'vp:leases', job) then redis.call('SREM', 'vp:holds:' .. worker, job) end
  end
end
return {lapsed, expired, reticketed, broken}
