-- Shared by sweep and expire_worker: what happens to a running job whose worker is gone.
local function poison_item(job, record, index)
  local request = redis.call('HGET', 'vp:job:' .. job, 'request')
  -- A request that cannot be read must not stop the sweep of all the others.
  local readable, name = pcall(function() return cjson.decode(request).images[index + 1].name end)
  if not readable or type(name) ~= 'string' then name = cjson.null end
  local item = cjson.encode({index = index, name = name, result = cjson.null, timings = cjson.null, error = {
    code = 'poison', retryable = false, details = {},
    message = 'Expected an outcome; instead the worker died each time it worked on this image alone. ' ..
              'The worker log of those moments says why; leave this image out, or report it.'}})
  put_items(job, record, {tostring(index), '0', item}, 1)
end

local function lapse(job, now, template, max_attempts, max_marks)
  local record = load_job(job)
  if record.state ~= 'running' then
    redis.call('ZREM', 'vp:leases', job)
    return false
  end
  local key = 'vp:job:' .. job
  local attempts = redis.call('HINCRBY', key, 'attempts', 1)
  -- A death with a marked image is that image's; it is bounded by max_marks, and a chunk may hold many guilty ones.
  local marked = tonumber(read(job, 'marked').marked or 0)
  if record.mark then
    marked = redis.call('HINCRBY', key, 'marked', 1)
    local index = tonumber(record.mark)
    if redis.call('HINCRBY', key, 'marks:' .. record.mark, 1) >= max_marks then poison_item(job, record, index) end
    redis.call('HDEL', key, 'mark')
  end
  if tonumber(record.finished) >= tonumber(record.total) then
    end_job(job, record, 'done', '', now)
  elseif record.cancel == '1' then
    end_job(job, record, 'cancelled', error_json('cancelled', 'The job was cancelled while it ran.'), now)
  elseif record.deadline_at and tonumber(record.deadline_at) <= now then
    end_job(job, record, 'expired', expiry_json(), now)
  elseif attempts - marked >= max_attempts then
    end_job(job, record, 'failed', error_json('poison', 'Expected the job to end; instead its worker died ' ..
      attempts .. ' times. The worker logs say why.'), now)
  else
    leave_worker(job, record)
    redis.call('HDEL', key, 'token')
    enqueue(job, record, now)
    redis.call('RPUSH', 'vp:' .. lane_name(record.model, record.lane),
      ticket(template, job, record.model, record.lane, now))
  end
  return true
end
