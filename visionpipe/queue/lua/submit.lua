-- ARGV: job, digest, target, lane, total, blobs, external, client, deadline_ms, ttl_ms, max_items, wait, template, task, request
local job, digest, target, lane = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local key, now = 'vp:job:' .. job, now_ms()
local blobs = {blobs = ARGV[6], external = ARGV[7]}
local known = read(job, 'digest', 'state')
if known.state then
  if known.digest ~= digest then return {'conflict', known.state} end
  if known.state ~= 'queued' and known.state ~= 'running' then drop_blobs(job, blobs) end
  return {'known', known.state}
end
if ARGV[12] == '0' and redis.call('ZCOUNT', 'vp:serving:' .. lane_name(target, lane), now, '+inf') == 0 then
  drop_blobs(job, blobs)
  return {'no_worker', ''}
end
local depth = tonumber(redis.call('HGET', 'vp:depth', lane_name(target, lane)) or 0)
if depth + tonumber(ARGV[5]) > tonumber(ARGV[11]) then
  drop_blobs(job, blobs)
  local rate = 0
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', 'vp:serving:' .. lane_name(target, lane), now, '+inf')) do
    local raw = redis.call('HGET', 'vp:workers', worker)
    local told = raw and cjson.decode(raw).rate
    if type(told) == 'number' then rate = rate + told end
  end
  return {'full', tostring(depth), tostring(rate)}
end
redis.call('HSET', key, 'task', ARGV[14], 'model', target, 'lane', lane, 'total', ARGV[5], 'finished', 0,
  'attempts', 0, 'submitted_at', now, 'digest', digest, 'client', ARGV[8], 'blobs', ARGV[6], 'external', ARGV[7],
  'ttl_ms', ARGV[10], 'request', ARGV[15])
if ARGV[9] ~= '' then
  local deadline = now + tonumber(ARGV[9])
  redis.call('HSET', key, 'deadline_at', deadline)
  redis.call('ZADD', 'vp:deadlines', deadline, job)
end
account(target, 'submitted', tonumber(ARGV[5]))
enqueue(job, {model = target, lane = lane, submitted_at = now, total = ARGV[5], finished = 0}, now)
redis.call('LPUSH', 'vp:' .. lane_name(target, lane), ticket(ARGV[13], job, target, lane, now))
return {'created', 'queued'}
