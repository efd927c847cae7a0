-- Put another origin of the source on record, or what is to be on record of an earlier one from now on, once what it
-- is was seen for long enough without a change.
-- KEYS  the ledger's origins (hash)
-- ARGV  the number of the newest origin as the caller knows it, the number of this one, what is to be on record of it,
--         how far it is written, the number of one to forget, what it is, how long it is to be seen in ms
-- Gives {1 if it was taken, how many ms are left, when it was taken in µs}; {0, 0, 0} if another one was.
local call, name = redis.call, KEYS[1]
if (call('HGET', name, 'newest') or '0') ~= ARGV[1] then
  return {0, 0, 0}
end
local time = call('TIME')
local now_ms, settle_ms = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[7])
if settle_ms > 0 then
  local since, what = string.match(call('HGET', name, 'pending') or '', '^(%d+) (.*)$')
  if what ~= ARGV[6] then
    call('HSET', name, 'pending', string.format('%.0f', now_ms) .. ' ' .. ARGV[6])
    return {0, settle_ms, 0}
  end
  local left_ms = tonumber(since) + settle_ms - now_ms
  if left_ms > 0 then
    return {0, left_ms, 0}
  end
end
local since_us = string.format('%.0f', now_ms * 1000)
call('HSET', name, 'record:' .. ARGV[2], ARGV[3])
call('HDEL', name, 'pending')
if tonumber(ARGV[2]) > tonumber(ARGV[1]) then
  call('HSET', name, 'newest', ARGV[2], 'written:' .. ARGV[2], ARGV[4], 'since:' .. ARGV[2], since_us)
  call('HDEL', name, 'record:' .. ARGV[5], 'written:' .. ARGV[5], 'since:' .. ARGV[5])
end
return {1, 0, tonumber(since_us)}
