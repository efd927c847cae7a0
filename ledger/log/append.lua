-- Append events to one partition and apply what they fold into, for one or more sessions of a user: all or nothing.
-- KEYS  stream, activity (sorted set), devices of the user (hash), ended (hash); then per session: session, checkpoints,
--         marks (list); then, if its place in it changes: order (sorted set); then, if a session begins or ends, or
--         when it is over changes: sids (sorted set), provider sessions (sorted set), credentials (hash), whole,
--         due (sorted set), ending (hash); at the end, the session hashes of those that the first session belongs to
-- ARGV  now in ms, parent that must be living ('' for none), when the sessions may last have been seen in ms
--         ('' for any time), number of sessions, every how many events one is a mark, how many living sessions a user
--         may have (0: any number), the user if what belongs to the sessions that end is still to end ('' else), how
--         many ids follow of those that the first session belongs to, these ids; then per session:
--         session id (hex), session id (32 bytes), expected seq (0: must never have existed), 'live', 'ended' or
--         'resumed' (it had ended, and lives again), parent ('' for none), what is kept of it while it has ended, its
--         member of the provider sessions ('' for none), its times; five counts of arguments, the expected hash
--         ('' with seq 0), and then so many arguments:
--         events (seq, at, schema, event, hash each); fields and values to set in the session; fields to remove there;
--         fields and values to set in the checkpoints; fields to remove there
-- The times of a session that lives are '=', as they were, or `<when it is over> <from when its place counts>` in ms: the
-- former '' for never or '=', the latter '' for as it was, behind `~` where what is marked as stuck stays so.
-- Gives {1}, or with nothing written: on a conflict {0, the first session's fields, its checkpoint fields};
--         {2} if it takes sessions that may not be rebuilt yet: the children of an ending one, a parent; {3} or {4} if
--         one that the first session belongs to has ended or expired; {5} if the user has as many sessions as may live.
-- In a partition that is being copied no session begins or is resumed, nor in one without anything: it has lost all
-- that it held.
-- That a session ended is said on the channel of the name of `ended`; where a server forbids that, who listens is told.
-- Knows no event type: only that a session is at a version, lives, belongs to another, and is known to a provider.
-- A version is seq and hash: where the store lost its tail another event may have taken the seq.
-- The session's seq, at_us and hash are those of its last event here. Its marks lead walk.lua to where a page begins;
-- mark m is the first event of seq m * every or more: behind a hole one event may be several.
-- PERF: arguments are used where they lie, and a call costs more than what it does.
local KEYS, ARGV, call = KEYS, ARGV, redis.call

-- All checks come before the first write, and fail on every key of another type (the stream's is the first write).
local conflict, ends, begins, starts, heads, at = false, false, 0, {}, {}, 9 + ARGV[8]
local sections, every = tonumber(ARGV[4]), tonumber(ARGV[5])
local order, sids, provider_sessions = KEYS[5 + 3 * sections], KEYS[6 + 3 * sections], KEYS[7 + 3 * sections]
local above = tonumber(ARGV[8])
local credentials, whole = KEYS[8 + 3 * sections], KEYS[9 + 3 * sections]
local due, ending = KEYS[10 + 3 * sections], KEYS[11 + 3 * sections]
local says, nothing_left = false, false
if order then
  call('ZCARD', order)
end
if provider_sessions then
  call('ZCARD', sids)
  call('ZCARD', provider_sessions)
  call('HLEN', credentials)
  call('ZCARD', due)
  call('HLEN', ending)
  says = call('GET', whole)
  nothing_left = not says and call('EXISTS', KEYS[1]) == 0
end
for i = 1, sections do
  local seq, head, hash = unpack(call('HMGET', KEYS[2 + 3 * i], 'seq', 'head', 'hash'))
  call('HLEN', KEYS[3 + 3 * i])
  local last = ARGV[at + 9 + ARGV[at + 8]]
  if last % every < last - ARGV[at + 2] then
    call('LLEN', KEYS[4 + 3 * i])
  end
  local resumed = ARGV[at + 3] == 'resumed'
  if ARGV[at + 2] == '0' or resumed then
    begins = begins + 1
    local kept = call('HGET', KEYS[4], ARGV[at])
    call('ZCARD', KEYS[2])
    call('HLEN', KEYS[3])
    if nothing_left or (says and string.sub(says, 1, 8) == 'copying ') then
      return {2}
    end
    if resumed then
      local space = kept and string.find(kept, ' ', 1, true)
      conflict = conflict or seq or not space or string.sub(kept, space + 1) ~= ARGV[at + 5]
      head = space and string.sub(kept, 1, space - 1)
    else
      conflict = conflict or seq or kept
    end
  else
    conflict = conflict or seq ~= ARGV[at + 2] or hash ~= ARGV[at + 13]
  end
  if ARGV[at + 3] == 'ended' then
    ends = true
  end
  if ARGV[3] ~= '' then
    local seen = call('ZSCORE', KEYS[2], ARGV[at])
    conflict = conflict or (seen and tonumber(seen) > tonumber(ARGV[3]))
  end
  starts[i], heads[i] = at, head or ''
  at = at + 14 + ARGV[at + 8] + ARGV[at + 9] + ARGV[at + 10] + ARGV[at + 11] + ARGV[at + 12]
end
if ARGV[2] ~= '' and call('HEXISTS', KEYS[3], ARGV[2]) == 0 then
  if says ~= '1' then
    return {2}
  end
  conflict = true
end
if above > 0 then
  local over = ancestor_over(#KEYS - above + 1, 9, above, tonumber(ARGV[1]), KEYS[4], whole)
  if over then
    return {over == 'unknown' and 2 or over == 'ended' and 3 or 4}
  end
end
if ends then
  if says ~= '1' then
    return {2}
  end
  call('ZCARD', KEYS[2])
  call('HLEN', KEYS[4])
  call('HLEN', KEYS[3])
end
if begins > 0 and ARGV[6] ~= '0' and not conflict and call('HLEN', KEYS[3]) + begins > tonumber(ARGV[6]) then
  return {5}
end
if conflict then
  return {0, call('HGETALL', KEYS[5]), call('HGETALL', KEYS[6])}
end

for i, at in ipairs(starts) do
  local session, checkpoints, marks, head = KEYS[2 + 3 * i], KEYS[3 + 3 * i], KEYS[4 + 3 * i], heads[i]
  local from, before = at + 14, ARGV[at + 2]
  local set = from + ARGV[at + 8] -- where each kind of argument begins
  local remove = set + ARGV[at + 9]
  local set_checkpoints = remove + ARGV[at + 10]
  local remove_checkpoints = set_checkpoints + ARGV[at + 11]
  local last = remove_checkpoints + ARGV[at + 12] - 1
  for event = from, set - 1, 5 do
    head = call('XADD', KEYS[1], '*', 'sid', ARGV[at + 1], 'seq', ARGV[event], 'at', ARGV[event + 1], 'schema',
      ARGV[event + 2], 'event', ARGV[event + 3], 'hash', ARGV[event + 4], 'prev', head)
    local seq = ARGV[event]
    if seq % every < seq - before then
      for _ = math.floor(before / every) + 1, math.floor(seq / every) do
        call('RPUSH', marks, head)
      end
    end
    before = seq
  end
  if ARGV[at + 3] ~= 'ended' then
    call('HSET', session, 'head', head, 'seq', ARGV[set - 5], 'at_us', ARGV[set - 4], 'hash', ARGV[set - 1],
      unpack(ARGV, set, remove - 1))
    if set_checkpoints > remove then
      call('HDEL', session, unpack(ARGV, remove, set_checkpoints - 1))
    end
    if remove_checkpoints > set_checkpoints then
      call('HSET', checkpoints, unpack(ARGV, set_checkpoints, remove_checkpoints - 1))
    end
    if last >= remove_checkpoints then
      call('HDEL', checkpoints, unpack(ARGV, remove_checkpoints, last))
    end
    if ARGV[at + 3] == 'resumed' then
      call('HDEL', KEYS[4], ARGV[at])
    end
    local over, keep, counts
    if ARGV[at + 7] ~= '=' then
      over, keep, counts = string.match(ARGV[at + 7], '^(%S*) (~?)(%d*)$')
    end
    if over == '' then
      call('ZREM', due, ARGV[at])
    elseif over and over ~= '=' then
      call('ZADD', due, over, ARGV[at])
    end
    if ARGV[at + 2] == '0' or ARGV[at + 3] == 'resumed' then
      call('HSET', KEYS[3], ARGV[at], ARGV[at + 4])
      call('ZADD', KEYS[2], 'GT', ARGV[1], ARGV[at])
      call('ZADD', sids, 0, ARGV[at])
      if ARGV[at + 6] ~= '' then
        call('ZADD', provider_sessions, 0, ARGV[at + 6])
      end
    end
    if counts and counts ~= '' then -- as placing.lua has it
      local placed = keep == '~' and tonumber(call('ZSCORE', order, ARGV[at]) or 2 ^ 43) or 2 ^ 43
      if placed >= 2 ^ 43 then
        local seen = tonumber(call('ZSCORE', KEYS[2], ARGV[at]) or 0)
        local class = seen > tonumber(counts) and 2 ^ 43 or 2 ^ 44
        call('ZADD', order, string.format('%.0f', class + counts), ARGV[at])
      end
    end
  else
    call('DEL', session, checkpoints)
    call('HDEL', KEYS[3], ARGV[at])
    call('ZREM', KEYS[2], ARGV[at])
    call('HSET', KEYS[4], ARGV[at], head .. ' ' .. ARGV[at + 5])
    call('HDEL', credentials, ARGV[at])
    call('ZREM', due, ARGV[at])
    call('ZREM', order, ARGV[at])
    call('ZADD', sids, 0, ARGV[at]) -- it may have begun by the same append
    if ARGV[at + 6] ~= '' then
      call('ZREM', provider_sessions, ARGV[at + 6])
    end
    redis.pcall('SPUBLISH', KEYS[4], ARGV[at])
  end
end
if ends and ARGV[7] ~= '' and call('HLEN', KEYS[3]) > 0 then
  for _, at in ipairs(starts) do
    call('HSET', ending, ARGV[at], ARGV[7])
  end
end
return {1}
