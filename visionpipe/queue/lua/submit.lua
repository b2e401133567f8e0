-- ARGV: job, digest, target, lane, total, blobs, external, client, deadline_ms, ttl_ms, max_items, wait, template, task,
-- request, stage. The pixels were written beside (vp:stage:<stage>:<i>) in the same round trip; they become the job's only
-- if it is created, so that neither a conflicting nor a refused submission touches another's pixels.
local job, digest, target, lane = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local total, blobs, stage = tonumber(ARGV[5]), tonumber(ARGV[6]), 'vp:stage:' .. ARGV[16] .. ':'
local key, now, name = 'vp:job:' .. job, now_ms(), lane_name(target, lane)
local function refuse(...)
  for i = 0, blobs - 1 do redis.call('UNLINK', stage .. i) end
  return {...}
end
local known = read(job, 'digest', 'state', 'blobs')
if known.state then
  if known.digest ~= digest then return refuse('conflict', known.state) end
  if known.state == 'queued' or known.state == 'running' then
    -- Pixels that expired while the job waited come back with whoever asks again.
    for i = 0, math.min(blobs, count(known.blobs, MOST.blobs) or 0) - 1 do
      local blob = 'vp:blob:' .. job .. ':' .. i
      if redis.call('EXISTS', blob) == 0 and redis.call('EXISTS', stage .. i) == 1 then redis.call('RENAME', stage .. i, blob) end
    end
  end
  return refuse('known', known.state)
end
if ARGV[12] == '0' and redis.call('ZCOUNT', 'vp:serving:' .. name, now, '+inf') == 0 then return refuse('no_worker', '') end
local depth = tonumber(redis.call('HGET', 'vp:depth', name) or 0)
-- A job larger than the bound gets in when nothing waits; it would otherwise be told to try again for ever.
if depth > 0 and depth + total > tonumber(ARGV[11]) then
  local rate = 0
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', 'vp:serving:' .. name, now, '+inf')) do
    local raw = redis.call('HGET', 'vp:workers', worker)
    local readable, told = pcall(function() return cjson.decode(raw).rate end)
    if readable and type(told) == 'number' then rate = rate + told end
  end
  return refuse('full', tostring(depth), tostring(rate))
end
-- Redis may have refused the pixels, for want of memory, and yet run this script.
for i = 0, blobs - 1 do
  if redis.call('EXISTS', stage .. i) == 0 then return refuse('unstored', '') end
end
redis.call('HSET', key, 'task', ARGV[14], 'model', target, 'lane', lane, 'total', total, 'finished', 0,
  'attempts', 0, 'submitted_at', now, 'digest', digest, 'client', ARGV[8], 'blobs', blobs, 'external', ARGV[7],
  'ttl_ms', ARGV[10], 'request', ARGV[15])
redis.call('UNLINK', 'vp:items:' .. job)
for i = 0, blobs - 1 do redis.call('RENAME', stage .. i, 'vp:blob:' .. job .. ':' .. i) end
if ARGV[9] ~= '' then
  local deadline = now + tonumber(ARGV[9])
  redis.call('HSET', key, 'deadline_at', deadline)
  redis.call('ZADD', 'vp:deadlines', deadline, job)
end
redis.call('SADD', 'vp:models', model_name(target))
account(target, 'submitted', total)
enqueue(job, {model = target, lane = lane, submitted_at = now, total = total, finished = 0}, now)
redis.call('LPUSH', 'vp:' .. name, ticket(ARGV[13], job, target, lane, now))
return {'created', 'queued'}
