-- Put sessions in their places in the index of devices, where they still are as they were looked at.
-- KEYS  order (sorted set), sids (sorted set), activity (sorted set), ended (hash); then per session: session hash,
--         sent (list)
-- ARGV  per session: session id, its seq ('' if it does not live), from when its place counts in ms, since when it is
--         stuck in ms ('' for not, '=' to leave that as it is), the newest record of what was sent to it
-- Gives the sessions that are not as they were, and were left alone.
local call, order, sids, left = redis.call, KEYS[1], KEYS[2], {}
call('ZCARD', order)
call('ZCARD', sids)
for at = 1, #ARGV, 5 do
  local sid, stuck = ARGV[at], ARGV[at + 3]
  local session, sent = KEYS[5 + 2 * (at - 1) / 5], KEYS[6 + 2 * (at - 1) / 5]
  local judged = stuck == '=' or (call('LINDEX', sent, 0) or '') == ARGV[at + 4]
  if (call('HGET', session, 'seq') or '') ~= ARGV[at + 1] or not judged then
    left[#left + 1] = sid
  elseif ARGV[at + 1] == '' then
    call('ZREM', order, sid)
    if call('HEXISTS', KEYS[4], sid) == 1 then
      call('ZADD', sids, 0, sid)
    else
      call('ZREM', sids, sid)
    end
  else
    call('ZADD', sids, 0, sid)
    put_in_place(order, KEYS[3], sid, ARGV[at + 2], stuck)
  end
end
return left
