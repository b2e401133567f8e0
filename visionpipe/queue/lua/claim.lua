-- ARGV: job, worker, token, lease_ms, model info (JSON). A repeated claim with the same token is the same claim.
-- The longest honest one, of 4,096 long URLs with long names, takes half of it.
local MOST_REQUEST, MOST_PIXELS = 2 ^ 25, 2 ^ 20
local job, worker, token = ARGV[1], ARGV[2], ARGV[3]
local key, now = 'vp:job:' .. job, now_ms()
despite_full_memory()
local record = load_job(job)
if record.state == 'queued' then
  if record.deadline_at and tonumber(record.deadline_at) <= now then
    end_job(job, record, 'expired', error_json('deadline_exceeded', 'The deadline passed before a worker was free.'), now)
    return {'expired'}
  end
  if redis.call('HSTRLEN', key, 'request') > MOST_REQUEST then
    end_job(job, record, 'failed', error_json('invalid_request', 'The request is too long to be read.'), now)
    return {'failed'}
  end
  local items = redis.call('TYPE', 'vp:items:' .. job).ok
  if items ~= 'hash' and items ~= 'none' then redis.call('UNLINK', 'vp:items:' .. job) end
  leave_queue(job, record)
  redis.call('HINCRBY', 'vp:running', lane_name(record.model, record.lane), remaining(record))
  redis.call('HSET', key, 'state', 'running', 'token', token, 'worker', worker, 'started_at', now, 'touched_at', 0,
    'model_info', ARGV[5])
  redis.call('ZADD', 'vp:leases', now + ARGV[4], job)
  redis.call('SADD', 'vp:holds:' .. worker, job)
elseif not (record.state == 'running' and record.token == token) then
  return {record.state or 'unknown'}
end
local full = read(job, 'request', 'attempts', 'submitted_at', 'deadline_at', 'lane', 'blobs', 'external', 'let_go')
local left = full.deadline_at and tonumber(full.deadline_at) - now or ''
-- One picture of ordinary size travels with the claim, which saves its own round trip.
local blob, pixels = 'vp:blob:' .. job .. ':0', ''
if full.blobs == '1' and full.external ~= '1' and redis.call('TYPE', blob).ok == 'string' and
    redis.call('STRLEN', blob) <= MOST_PIXELS then
  pixels = redis.call('GET', blob)
end
return {'claimed', full.request, full.lane, tonumber(full.attempts), math.max(0, now - tonumber(full.submitted_at)),
        tostring(left), redis.call('HKEYS', 'vp:items:' .. job), pixels, remaining(record),
        count(full.let_go, MOST.attempts) or 0}
