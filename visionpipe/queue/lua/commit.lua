-- ARGV: job, token, final state or '', error JSON or '', then (index, ok, item JSON) triples.
-- A repeated commit whose first answer was lost finds its own token and is answered ok.
local job, token = ARGV[1], ARGV[2]
local now = now_ms()
local record = load_job(job)
if record.state ~= 'running' or record.token ~= token then
  local last = read(job, 'last_token').last_token
  return (last == token and record.state ~= 'queued') and 'ok' or 'lost'
end
for i = 5, #ARGV, 3 do put_item(job, record, tonumber(ARGV[i]), ARGV[i + 1] == '1', ARGV[i + 2]) end
if tonumber(record.finished) >= tonumber(record.total) then
  end_job(job, record, 'done', '', now)
elseif ARGV[3] ~= '' then
  end_job(job, record, ARGV[3], ARGV[4], now)
elseif now - tonumber(read(job, 'noted_at').noted_at or 0) >= 1000 then
  redis.call('HSET', 'vp:job:' .. job, 'noted_at', now)
  notify(record.client, job, 'running')
end
return 'ok'
