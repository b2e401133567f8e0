-- Shared by sweep and expire_worker: what happens to a running job whose worker is gone.
local function poison_item(job, record, index)
  local name = cjson.null
  local request = redis.call('HGET', 'vp:job:' .. job, 'request')
  if request then
    local image = (cjson.decode(request).images or {})[index + 1]
    if image and image.name then name = image.name end
  end
  put_item(job, record, index, false, cjson.encode({index = index, name = name, error = {
    code = 'poison', retryable = false,
    message = 'Expected an outcome; instead the worker died each time it worked on this image alone. ' ..
              'The worker log of those moments says why; leave this image out, or report it.'}}))
end

local function lapse(job, now, template, max_attempts, max_marks)
  local record = load_job(job)
  if record.state ~= 'running' then
    redis.call('ZREM', 'vp:leases', job)
    return false
  end
  local key = 'vp:job:' .. job
  local attempts = redis.call('HINCRBY', key, 'attempts', 1)
  if record.mark then
    local index = tonumber(record.mark)
    if redis.call('HINCRBY', key, 'marks:' .. record.mark, 1) >= max_marks then poison_item(job, record, index) end
    redis.call('HDEL', key, 'mark')
  end
  if tonumber(record.finished) >= tonumber(record.total) then
    end_job(job, record, 'done', '', now)
  elseif record.cancel == '1' then
    end_job(job, record, 'cancelled', error_json('cancelled', 'The job was cancelled while it ran.'), now)
  elseif attempts >= max_attempts then
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
