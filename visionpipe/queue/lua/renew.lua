-- ARGV: lease_ms, grace_ms, blob_ttl_ms, then (job, token) pairs. Answers ok | cancelled | expired | lost for each.
local now, lease, grace, blob_ttl = now_ms(), tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local function touch(job)
  local seen = read(job, 'touched_at', 'blobs', 'external')
  if seen.external == '1' or now - (count(seen.touched_at, 1e15) or 0) < blob_ttl / 4 then return end
  for i = 0, (count(seen.blobs, MOST.blobs) or 0) - 1 do redis.call('PEXPIRE', 'vp:blob:' .. job .. ':' .. i, blob_ttl) end
  redis.call('HSET', 'vp:job:' .. job, 'touched_at', now)
end
local answers = {}
despite_full_memory()
for i = 4, #ARGV, 2 do
  local job = ARGV[i]
  local record = read(job, 'state', 'token', 'cancel', 'cancel_at', 'deadline_at')
  if record.state ~= 'running' or record.token ~= ARGV[i + 1] then
    answers[#answers + 1] = 'lost'
  else
    local cancelled = record.cancel == '1'
    local deadline = count(record.deadline_at, 1e15)
    local expired = deadline and deadline <= now
    -- A cancelled or expired job keeps its lease only for the grace in which its worker hands over what it has.
    local until_ms = cancelled and (count(record.cancel_at, 1e15) or now) + grace or now + lease
    if expired then until_ms = math.min(until_ms, deadline + grace) end
    if until_ms > now then
      redis.call('ZADD', 'vp:leases', 'XX', 'GT', now + lease, job)
      touch(job)
    end
    answers[#answers + 1] = cancelled and 'cancelled' or expired and 'expired' or 'ok'
  end
end
return answers
