-- Shared by every script. Keys are computed here, so this needs one Redis, not a cluster.
-- Times are milliseconds of the Redis clock; no worker's clock is ever asked.
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function lane_name(target, lane) return target .. ':' .. lane end

local function account(target, what, n)
  if n ~= 0 then redis.call('HINCRBY', 'vp:accounts:' .. string.gsub(target, '@.*', ''), what, n) end
end

local function read(job, ...)
  local names = {...}
  local values = redis.call('HMGET', 'vp:job:' .. job, unpack(names))
  local record = {}
  for i, name in ipairs(names) do record[name] = values[i] end
  return record
end

local function remaining(record) return tonumber(record.total) - tonumber(record.finished) end

local function notify(client, job, state)
  if client and client ~= '' then
    local key = 'vp:reply:' .. client
    redis.call('XADD', key, 'MAXLEN', '~', 10000, '*', 'job', job, 'state', state)
    redis.call('PEXPIRE', key, 86400000)
  end
end

-- A ticket is a Celery message; losing or doubling one is harmless, so its delivery tag need only be fresh.
local function ticket(template, job, target, lane, now)
  local text = string.gsub(template, '__VP_JOB__', job)
  text = string.gsub(text, '__VP_QUEUE__', 'vp:' .. lane_name(target, lane))
  return (string.gsub(text, '__VP_TAG__', job .. '-' .. string.format('%.0f', now)))
end

local function enqueue(job, record, now)
  local name = lane_name(record.model, record.lane)
  redis.call('HSET', 'vp:job:' .. job, 'state', 'queued')
  redis.call('ZADD', 'vp:queued:' .. name, record.submitted_at, job)
  redis.call('HINCRBY', 'vp:depth', name, remaining(record))
  redis.call('SADD', 'vp:lanes', name)
end

local function leave_queue(job, record)
  local name = lane_name(record.model, record.lane)
  if redis.call('ZREM', 'vp:queued:' .. name, job) == 1 then
    redis.call('HINCRBY', 'vp:depth', name, 0 - remaining(record))
  end
end

local function leave_worker(job, record)
  redis.call('ZREM', 'vp:leases', job)
  if record.worker then redis.call('SREM', 'vp:holds:' .. record.worker, job) end
  redis.call('HINCRBY', 'vp:running', lane_name(record.model, record.lane), 0 - remaining(record))
end

local function drop_blobs(job, record)
  if record.external == '1' then
    redis.call('RPUSH', 'vp:gc', job)
    return
  end
  for i = 0, tonumber(record.blobs or 0) - 1 do
    redis.call('UNLINK', 'vp:blob:' .. job .. ':' .. i)
  end
end

local RECORD = {'state', 'model', 'lane', 'total', 'finished', 'submitted_at', 'client', 'external', 'blobs',
                'worker', 'token', 'ttl_ms', 'attempts', 'cancel', 'deadline_at', 'mark'}
local function load_job(job) return read(job, unpack(RECORD)) end

-- Every final transition passes here: pixels go, the account closes, the waiter wakes.
local function end_job(job, record, state, err, now)
  local key = 'vp:job:' .. job
  if record.state == 'queued' then leave_queue(job, record) else leave_worker(job, record) end
  account(record.model, state, remaining(record))
  redis.call('ZREM', 'vp:deadlines', job)
  redis.call('HSET', key, 'state', state, 'ended_at', now, 'last_token', record.token or '')
  redis.call('HDEL', key, 'token', 'request', 'mark')
  if err and err ~= '' then redis.call('HSET', key, 'error', err) end
  drop_blobs(job, record)
  redis.call('PEXPIRE', key, record.ttl_ms)
  redis.call('PEXPIRE', 'vp:items:' .. job, record.ttl_ms)
  notify(record.client, job, state)
end

-- One outcome per item: the first stays.
local function put_item(job, record, index, ok, json)
  if redis.call('HSETNX', 'vp:items:' .. job, index, json) == 0 then return end
  record.finished = redis.call('HINCRBY', 'vp:job:' .. job, 'finished', 1)
  redis.call('HINCRBY', 'vp:running', lane_name(record.model, record.lane), -1)
  account(record.model, ok and 'done' or 'failed', 1)
  if record.mark == tostring(index) then
    redis.call('HDEL', 'vp:job:' .. job, 'mark')
    record.mark = false
  end
end

local function error_json(code, message)
  return cjson.encode({code = code, message = message, retryable = false})
end
