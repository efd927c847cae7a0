-- Write something of no meaning behind a session's event, if this server has the event; WAIT can then be asked for it.
-- KEYS  session hash, ended (hash), barrier (string), stream
-- ARGV  session id, seq of the event, its hash, how many later events may be gone through
-- Gives 1 if the event or one that follows it is here, else 0 with nothing written: also where another event has its
-- seq, since the primary before this one was lost with it, and where too many came later to tell.
local call = redis.call
local seq, hash, head = unpack(call('HMGET', KEYS[1], 'seq', 'hash', 'head'))
if not seq then
  head = string.match(call('HGET', KEYS[2], ARGV[1]) or '', '^[^ ]+')
end
local here = seq == ARGV[2] and hash == ARGV[3]
local wanted, left = tonumber(ARGV[2]), here and 0 or tonumber(ARGV[4])
if seq and tonumber(seq) <= wanted then
  left = 0
end
while head and head ~= '' and left > 0 do
  -- The values of an entry lie where append.lua put them: sid, seq, at, schema, event, hash, prev at 2, 4, 6 … 14.
  local entry = call('XRANGE', KEYS[4], head, head)[1]
  local values = entry and entry[2]
  if not values or values[3] ~= 'seq' or tonumber(values[4]) <= wanted then
    here = values and values[4] == ARGV[2] and values[12] == ARGV[3]
    break
  end
  head, left = values[14], left - 1
end
if not here then
  return 0
end
call('SET', KEYS[3], '1')
return 1
