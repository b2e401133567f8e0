-- ARGV: job, token, template, let_go. A draining worker hands a job back; that is nobody's fault and counts no attempt.
-- One that found no store counts how often that has been so.
-- A repeated release whose first answer was lost is answered ok.
local job, token, now = ARGV[1], ARGV[2], now_ms()
despite_full_memory()
local record = load_job(job)
if record.state ~= 'running' or record.token ~= token then
  return read(job, 'released').released == token and 'ok' or 'lost'
end
redis.call('HSET', 'vp:job:' .. job, 'released', token)
if record.cancel == '1' then
  end_job(job, record, 'cancelled', error_json('cancelled', 'The job was cancelled while it ran.'), now)
  return 'ok'
end
if ARGV[4] == '1' then
  redis.call('HSET', 'vp:job:' .. job, 'let_go', (count(record.let_go, MOST.attempts) or 0) + 1)
end
leave_worker(job, record)
redis.call('HDEL', 'vp:job:' .. job, 'token', 'mark')
enqueue(job, record, now)
redis.call('RPUSH', 'vp:' .. lane_name(record.model, record.lane), ticket(ARGV[3], job, record.model, record.lane, now))
return 'ok'
