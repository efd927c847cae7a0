-- Note how a sync stream ended, as the newest of a session's last ones.
-- KEYS  sent (list), session hash, ended (hash)
-- ARGV  session id, when it ended (µs), the record, by what it is known again ('' for a record of its own), how many
--         are kept
-- Gives 1, or 0 with nothing written where there is no such session: what is kept of one goes with its history.
-- An entry is `<how often> <first ended> <known by> <the record>`: one that is known again takes the newest's place.
local call, list, since, times = redis.call, KEYS[1], ARGV[2], 1
if call('EXISTS', KEYS[2]) == 0 and call('HEXISTS', KEYS[3], ARGV[1]) == 0 then
  return 0
end
if ARGV[4] ~= '' then
  local count, first, known = string.match(call('LINDEX', list, 0) or '', '^(%d+) (%d+) (%x*) ')
  if known == ARGV[4] then
    since, times = first, tonumber(count) + 1
    call('LPOP', list)
  end
end
call('LPUSH', list, times .. ' ' .. since .. ' ' .. ARGV[4] .. ' ' .. ARGV[3])
call('LTRIM', list, 0, ARGV[5] - 1)
return 1
