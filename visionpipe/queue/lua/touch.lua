-- ARGV: blob_ttl_ms, jobs... A waiting client keeps the pixels of its queued jobs alive.
for i = 2, #ARGV do
  local record = read(ARGV[i], 'state', 'blobs', 'external')
  if record.state == 'queued' and record.external ~= '1' then
    for b = 0, (count(record.blobs, MOST.blobs) or 0) - 1 do redis.call('PEXPIRE', 'vp:blob:' .. ARGV[i] .. ':' .. b, ARGV[1]) end
  end
end
return 0
