-- ARGV: job, token, template. A draining worker hands a job back; that is nobody's fault and counts no attempt.
local job, now = ARGV[1], now_ms()
local record = load_job(job)
if record.state ~= 'running' or record.token ~= ARGV[2] then return 'lost' end
if record.cancel == '1' then
  end_job(job, record, 'cancelled', error_json('cancelled', 'The job was cancelled while it ran.'), now)
  return 'ok'
end
leave_worker(job, record)
redis.call('HDEL', 'vp:job:' .. job, 'token', 'mark')
enqueue(job, record, now)
redis.call('RPUSH', 'vp:' .. lane_name(record.model, record.lane), ticket(ARGV[3], job, record.model, record.lane, now))
return 'ok'
