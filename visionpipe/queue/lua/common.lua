-- Shared by every script. Keys are computed here, so this needs one Redis, not a cluster.
-- Times are milliseconds of the Redis clock; no worker's clock is ever asked.
local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Once a script has written, Redis lets it finish even above maxmemory. Everything that empties the queue starts with
-- this write of nothing: a server full of pixels could otherwise never end a job and so never get rid of them.
local function despite_full_memory() redis.call('DEL', 'vp:none') end

local function lane_name(target, lane) return target .. ':' .. lane end

local function model_name(target) return string.match(target, '^[^@]*') end

local function account(target, what, n)
  if n ~= 0 then redis.call('HINCRBY', 'vp:accounts:' .. model_name(target), what, n) end
end

local function read(job, ...)
  local names = {...}
  local values = redis.pcall('HMGET', 'vp:job:' .. job, unpack(names))
  local record = {}
  for i, name in ipairs(names) do record[name] = not values.err and values[i] end
  return record
end

-- Whoever can write to Redis can write nonsense. One such record must neither stop the work on all the others nor keep
-- the server in a loop without end.
local MOST = {total = 1e5, finished = 1e5, blobs = 1e5, attempts = 1e9, submitted_at = 1e15, ttl_ms = 1e15}
local function count(text, most)
  local n = type(text) == 'string' and string.match(text, '^%d+$') and tonumber(text)
  return n and n <= most and n
end

local function is_sound(record)
  for name, most in pairs(MOST) do
    if not count(record[name], most) then return false end
  end
  for _, name in ipairs({'deadline_at', 'mark'}) do
    if record[name] and not count(record[name], 1e15) then return false end
  end
  return record.model and (record.lane == 'interactive' or record.lane == 'bulk')
end

local function remaining(record) return tonumber(record.total) - tonumber(record.finished) end

-- Nobody reads the replies of a client that has gone; one that was away for longer reads the records.
local REPLY_TTL_MS = 600000

local function notify(client, job, ...)
  if client and client ~= '' then
    local key = 'vp:reply:' .. client
    redis.call('XADD', key, 'MAXLEN', '~', 10000, '*', 'job', job, 'state', ...)
    redis.call('PEXPIRE', key, REPLY_TTL_MS)
  end
end

-- At most one entry a second while a job runs.
local function note_running(job, client, now)
  local noted = read(job, 'noted_at').noted_at
  if noted and now - tonumber(noted) < 1000 then return end
  redis.call('HSET', 'vp:job:' .. job, 'noted_at', now)
  notify(client, job, 'running')
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

-- The counters are exact; setting them to nothing when nothing is left also mends what a deleted record left behind.
local function leave_queue(job, record)
  local name = lane_name(record.model, record.lane)
  if redis.call('ZREM', 'vp:queued:' .. name, job) == 1 then
    redis.call('HINCRBY', 'vp:depth', name, 0 - remaining(record))
    if redis.call('EXISTS', 'vp:queued:' .. name) == 0 then redis.call('HDEL', 'vp:depth', name) end
  end
end

local function leave_worker(job, record)
  redis.call('ZREM', 'vp:leases', job)
  if record.worker then redis.call('SREM', 'vp:holds:' .. record.worker, job) end
  redis.call('HINCRBY', 'vp:running', lane_name(record.model, record.lane), 0 - remaining(record))
  if redis.call('EXISTS', 'vp:leases') == 0 then redis.call('DEL', 'vp:running') end
end

local function drop_blobs(job, record)
  if record.external == '1' then
    redis.call('RPUSH', 'vp:gc', job)
    -- Where no worker opens the external store nobody empties this list; its files expire by themselves.
    redis.call('LTRIM', 'vp:gc', -100000, -1)
    return
  end
  for i = 0, (count(record.blobs, MOST.blobs) or 0) - 1 do redis.call('UNLINK', 'vp:blob:' .. job .. ':' .. i) end
end

local RECORD = {'state', 'model', 'lane', 'total', 'finished', 'submitted_at', 'client', 'external', 'blobs',
                'worker', 'token', 'ttl_ms', 'attempts', 'cancel', 'deadline_at', 'mark', 'let_go'}
local function load_job(job)
  local record = read(job, unpack(RECORD))
  if record.state and not is_sound(record) then record.state = 'broken' end
  return record
end

-- One answer of ordinary size comes with the news of it, which saves its reader a round trip: what envelope.lua gives,
-- by name, the only item as 'item'.
local MOST_TOLD = 4096
local TOLD = {'task', 'model', 'lane', 'total', 'finished', 'attempts', 'submitted_at', 'started_at', 'ended_at',
              'deadline_at', 'worker', 'cancel', 'progress', 'error', 'model_info'}
local function whole_answer(job, record)
  if record.total ~= '1' or not record.client or record.client == '' then return {} end
  local told, size = {}, 0
  local values = redis.call('HMGET', 'vp:job:' .. job, unpack(TOLD))
  local item = redis.pcall('HGET', 'vp:items:' .. job, '0')
  for i, name in ipairs(TOLD) do
    if values[i] then
      told[#told + 1], told[#told + 2] = name, values[i]
      size = size + #values[i]
    end
  end
  if type(item) == 'string' then
    told[#told + 1], told[#told + 2] = 'item', item
    size = size + #item
  end
  return size <= MOST_TOLD and told or {}
end

-- Every final transition passes here: pixels go, the account closes, the waiter wakes.
local function end_job(job, record, state, err, now)
  local key = 'vp:job:' .. job
  if record.state == 'queued' then leave_queue(job, record) else leave_worker(job, record) end
  account(record.model, state, remaining(record))
  redis.call('ZREM', 'vp:deadlines', job)
  redis.call('HSET', key, 'state', state, 'ended_at', now)
  redis.call('HDEL', key, 'token', 'request', 'mark')
  if err and err ~= '' then redis.call('HSET', key, 'error', err) end
  drop_blobs(job, record)
  redis.call('PEXPIRE', key, record.ttl_ms)
  redis.call('PEXPIRE', 'vp:items:' .. job, record.ttl_ms)
  notify(record.client, job, state, unpack(whole_answer(job, record)))
end

-- Takes (index, ok, JSON) triples from args[first] on. One outcome per item: the first stays.
local function put_items(job, record, args, first)
  local done, failed, total = 0, 0, tonumber(record.total)
  for i = first, #args, 3 do
    local index = tonumber(args[i])
    if index >= 0 and index < total and redis.call('HSETNX', 'vp:items:' .. job, args[i], args[i + 2]) == 1 then
      if args[i + 1] == '1' then done = done + 1 else failed = failed + 1 end
      if record.mark and tonumber(record.mark) == index then
        redis.call('HDEL', 'vp:job:' .. job, 'mark')
        record.mark = false
      end
    end
  end
  if done + failed == 0 then return end
  record.finished = redis.call('HINCRBY', 'vp:job:' .. job, 'finished', done + failed)
  redis.call('HINCRBY', 'vp:running', lane_name(record.model, record.lane), 0 - done - failed)
  account(record.model, 'done', done)
  account(record.model, 'failed', failed)
end

local function error_json(code, message)
  return cjson.encode({code = code, message = message, retryable = false})
end

local function expiry_json()
  return error_json('deadline_exceeded', 'The deadline passed before every image had an outcome.')
end
