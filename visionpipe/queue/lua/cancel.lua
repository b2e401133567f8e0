-- ARGV: job. A queued job ends at once; a running one's worker is told and hands over what it has.
local job, now = ARGV[1], now_ms()
despite_full_memory()
local record = load_job(job)
if not record.state or record.state == 'broken' then return '' end
if record.state == 'queued' then
  end_job(job, record, 'cancelled', error_json('cancelled', 'The job was cancelled before a worker took it.'), now)
  return 'cancelled'
end
if record.state == 'running' and record.cancel ~= '1' then
  redis.call('HSET', 'vp:job:' .. job, 'cancel', '1', 'cancel_at', now)
  redis.call('RPUSH', 'vp:ctl:' .. record.worker, job)
  redis.call('PEXPIRE', 'vp:ctl:' .. record.worker, 60000)
end
return record.state
