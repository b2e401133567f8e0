-- ARGV: job, token, final state or '', error JSON or '', then (index, ok, item JSON) triples.
-- A repeated commit whose first answer was lost finds its own token and is answered ok.
local job, token = ARGV[1], ARGV[2]
local key, now = 'vp:job:' .. job, now_ms()
despite_full_memory()
local record = load_job(job)
if record.state ~= 'running' or record.token ~= token then
  return read(job, 'last_token').last_token == token and 'ok' or 'lost'
end
local finished = record.finished
put_items(job, record, ARGV, 5)
-- Where work gets on, the store can be used after all.
if record.let_go and record.finished ~= finished then redis.call('HDEL', key, 'let_go') end
local complete = tonumber(record.finished) >= tonumber(record.total)
if complete or ARGV[3] ~= '' then
  redis.call('HSET', key, 'last_token', token)
  end_job(job, record, complete and 'done' or ARGV[3], complete and '' or ARGV[4], now)
elseif #ARGV > 4 then
  note_running(job, record.client, now)
end
return 'ok'
