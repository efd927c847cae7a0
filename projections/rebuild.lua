-- Put what a session's events fold into in place of all that is stored of it, if that still is what was looked at.
-- KEYS  session, checkpoints, ended (hash), activity (sorted set), devices of its user (hash), provider sessions
--         (sorted set), credentials (not touched); then devices of users it was found with and is not of
-- ARGV  session id; the seq, head and hash stored of it and what ended keeps of it, each '' for nothing;
--         'live', 'ended' or 'none' (no event is of it); parent ('' for none); what ended keeps of it from now on;
--         when it was last seen in ms, if nothing says so; its member of the provider sessions ('' for none);
--         three counts of arguments, and then so many:
--         fields and values of the session; fields and values of the checkpoints; members of other provider sessions
-- Gives 1, or 0 with nothing written. The session's version is the condition: every append changes it.
local call = redis.call
local session, checkpoints, ended, activity, devices, provider_sessions = unpack(KEYS, 1, 6)
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
call('HLEN', checkpoints)
call('ZCARD', activity)
call('HLEN', devices)
call('ZCARD', provider_sessions)

local fields = 14
local set_checkpoints = fields + ARGV[11]
local remove_members = set_checkpoints + ARGV[12]
local last = remove_members + ARGV[13] - 1
call('DEL', session, checkpoints)
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
  if ARGV[10] ~= '' then
    call('ZADD', provider_sessions, 0, ARGV[10])
  end
else
  call('HDEL', devices, sid)
  call('ZREM', activity, sid)
  if becomes == 'ended' then
    call('HSET', ended, sid, ARGV[8])
  else
    call('HDEL', ended, sid)
  end
end
for member = remove_members, last do
  call('ZREM', provider_sessions, ARGV[member])
end
for i = 8, #KEYS do
  call('HDEL', KEYS[i], sid)
end
return 1
