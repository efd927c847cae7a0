-- Append events to one partition and apply what they fold into, for one or more sessions of a user: all or nothing.
-- KEYS  stream, activity (sorted set), devices of the user (hash), ended (hash); then per session: session, checkpoints
-- ARGV  now in ms, parent that must be living ('' for none), when the first session may last have been seen in ms
--         ('' for any time), number of sessions; then per session:
--         session id (hex), session id (32 bytes), expected seq (0: must never have existed), 'live' or 'ended',
--         parent ('' for none), what to keep of it once ended;
--         n, then n times: seq, at, schema, event, hash;
--         n, then n fields and values to set in the session;      n, then n fields to remove;
--         n, then n fields and values to set in the checkpoints;  n, then n fields to remove
-- Gives {1, head} of the first session, or on a conflict {0, its session fields, its checkpoint fields}, nothing written.
-- Knows no event type: only that a session is at a version, lives, and belongs to another.
local SKIP = 128
local next_arg = 0
local function take()
  next_arg = next_arg + 1
  return ARGV[next_arg]
end
local function take_list(width)
  local list = {}
  for i = 1, tonumber(take()) * width do
    list[i] = take()
  end
  return list
end

local now_ms, living_parent, seen_by_ms, count = take(), take(), take(), tonumber(take())
local sections, ending = {}, {}
for i = 1, count do
  local section = {
    session = KEYS[3 + 2 * i], checkpoints = KEYS[4 + 2 * i],
    sid = take(), raw_sid = take(), expected = take(), live = take() == 'live', parent = take(), keep = take(),
    events = take_list(5),
    set = take_list(2), remove = take_list(1), set_checkpoints = take_list(2), remove_checkpoints = take_list(1),
  }
  sections[i] = section
  if not section.live then
    ending[section.sid] = true
  end
end

-- All checks come before the first write; the calls on every key to be written also fail here if it is of another type.
redis.call('XLEN', KEYS[1])
local conflict = false
for _, section in ipairs(sections) do
  local seq = redis.call('HGET', section.session, 'seq')
  redis.call('HLEN', section.checkpoints)
  if section.expected == '0' then
    conflict = conflict or seq or redis.call('HEXISTS', KEYS[4], section.sid) == 1
    redis.call('ZCARD', KEYS[2])
    redis.call('HLEN', KEYS[3])
  else
    conflict = conflict or seq ~= section.expected
  end
end
if living_parent ~= '' and redis.call('HEXISTS', KEYS[3], living_parent) == 0 then
  conflict = true
end
if seen_by_ms ~= '' then
  local seen = redis.call('ZSCORE', KEYS[2], sections[1].sid)
  conflict = conflict or (seen and tonumber(seen) > tonumber(seen_by_ms))
end
if next(ending) then
  redis.call('ZCARD', KEYS[2])
  redis.call('HLEN', KEYS[4])
  local devices = redis.call('HGETALL', KEYS[3])
  for i = 1, #devices, 2 do
    if ending[devices[i + 1]] and not ending[devices[i]] then
      conflict = true -- a session that belongs to an ending one and would be left behind
    end
  end
end
if conflict then
  return {0, redis.call('HGETALL', KEYS[5]), redis.call('HGETALL', KEYS[6])}
end

local function apply(command, key, list)
  for i = 1, #list, 400 do
    redis.call(command, key, unpack(list, i, math.min(i + 399, #list)))
  end
end

local first_head
for _, section in ipairs(sections) do
  local chain = redis.call('HMGET', section.session, 'head', 'skip')
  local head, skip = chain[1] or '', chain[2] or ''
  local events, moved_skip = section.events, false
  for i = 1, #events, 5 do
    local seq = tonumber(events[i])
    if seq % SKIP == 0 then
      head = redis.call('XADD', KEYS[1], '*', 'sid', section.raw_sid, 'seq', events[i], 'at', events[i + 1], 'schema',
        events[i + 2], 'event', events[i + 3], 'hash', events[i + 4], 'prev', head, 'skip', skip)
    else
      head = redis.call('XADD', KEYS[1], '*', 'sid', section.raw_sid, 'seq', events[i], 'at', events[i + 1], 'schema',
        events[i + 2], 'event', events[i + 3], 'hash', events[i + 4], 'prev', head)
    end
    if seq == 1 or seq % SKIP == 0 then
      skip, moved_skip = head, true
    end
  end
  first_head = first_head or head
  if section.live then
    redis.call('HSET', section.session, 'head', head)
    if moved_skip then
      redis.call('HSET', section.session, 'skip', skip)
    end
    apply('HSET', section.session, section.set)
    apply('HDEL', section.session, section.remove)
    apply('HSET', section.checkpoints, section.set_checkpoints)
    apply('HDEL', section.checkpoints, section.remove_checkpoints)
    if section.expected == '0' then
      redis.call('HSET', KEYS[3], section.sid, section.parent)
      redis.call('ZADD', KEYS[2], 'GT', now_ms, section.sid)
    end
  else
    redis.call('DEL', section.session, section.checkpoints)
    redis.call('HDEL', KEYS[3], section.sid)
    redis.call('ZREM', KEYS[2], section.sid)
    redis.call('HSET', KEYS[4], section.sid, head .. ' ' .. section.keep)
  end
end
return {1, first_head}
