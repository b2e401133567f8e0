-- ARGV: limit.
return redis.call('LPOP', 'vp:gc', tonumber(ARGV[1])) or {}
