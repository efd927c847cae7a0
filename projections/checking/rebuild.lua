-- Put what a session's events fold into in place of all that is stored of it, if that still is what was looked at.
-- KEYS  session, checkpoints, ended (hash), activity (sorted set), devices of its user (hash), provider sessions
--         (sorted set), credentials (not touched), marks (list), archive (hash), due (sorted set), order, sids, sent (not
--         touched); then devices of users it was found with and is not of
-- ARGV  session id; the seq, head and hash stored of it and what ended keeps of it, each '' for nothing;
--         'live', 'ended' or 'none' (no event is of it); parent ('' for none); what ended keeps of it from now on;
--         when it was last seen in ms, if nothing says so; its member of the provider sessions ('' for none);
--         the archive's floor, above which its marks are ('' for none); when it is over in ms ('' for never); from when its place
--         in the order counts in ms, since when it is stuck in ms ('' for not); four counts of arguments, and then so many:
--         fields and values of the session; fields and values of the checkpoints; members of other provider sessions;
--         marks
-- Gives 1, or 0 with nothing written. The session's version is the condition: every append changes it.
local call = redis.call
local session, checkpoints, ended, activity, devices, provider_sessions = unpack(KEYS, 1, 6)
local marks, archive, due, order, sids = KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local sid, becomes = ARGV[1], ARGV[6]

local stored = call('HMGET', session, 'seq', 'head', 'hash')
for i = 1, 3 do
  if (stored[i] or '') ~= ARGV[1 + i] then
    return 0
  end
end
if (call('HGET', ended, sid) or '') ~= ARGV[5] then
  return 0
end
if (call('HGET', archive, 'floor') or '') ~= ARGV[11] then
  return 0
end
call('HLEN', checkpoints)
call('LLEN', marks)
call('ZCARD', activity)
call('HLEN', devices)
call('ZCARD', provider_sessions)
call('ZCARD', due)
call('ZCARD', order)
call('ZCARD', sids)

local fields = 19
local set_checkpoints = fields + ARGV[15]
local remove_members = set_checkpoints + ARGV[16]
local set_marks = remove_members + ARGV[17]
local last = set_marks + ARGV[18] - 1
call('DEL', session, checkpoints, marks)
for mark = set_marks, last, 1000 do
  call('RPUSH', marks, unpack(ARGV, mark, math.min(mark + 999, last)))
end
if becomes == 'live' then
  call('HSET', session, unpack(ARGV, fields, set_checkpoints - 1))
  if remove_members > set_checkpoints then
    call('HSET', checkpoints, unpack(ARGV, set_checkpoints, remove_members - 1))
  end
  call('HDEL', ended, sid)
  call('HSET', devices, sid, ARGV[7])
  if not call('ZSCORE', activity, sid) then
    call('ZADD', activity, ARGV[9], sid)
  end
  call('ZADD', sids, 0, sid)
  put_in_place(order, activity, sid, ARGV[13], ARGV[14])
  if ARGV[10] ~= '' then
    call('ZADD', provider_sessions, 0, ARGV[10])
  end
else
  call('HDEL', devices, sid)
  call('ZREM', activity, sid)
  call('ZREM', order, sid)
  if becomes == 'ended' then
    call('HSET', ended, sid, ARGV[8])
    call('ZADD', sids, 0, sid)
  else
    call('HDEL', ended, sid)
    call('ZREM', sids, sid)
  end
end
for member = remove_members, set_marks - 1 do
  call('ZREM', provider_sessions, ARGV[member])
end
if ARGV[12] ~= '' then
  call('ZADD', due, ARGV[12], sid)
else
  call('ZREM', due, sid)
end
for i = 14, #KEYS do
  call('HDEL', KEYS[i], sid)
end
return 1
