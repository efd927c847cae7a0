-- Remove the marks of archived events.
-- KEYS  archive (hash), then marks of sessions (lists), oldest first
-- Gives how many were removed.
local floor_ms, floor_seq = string.match(redis.call('HGET', KEYS[1], 'floor') or '', '^(%d+)-(%d+)$')
floor_ms, floor_seq = tonumber(floor_ms), tonumber(floor_seq)
local removed = 0
for i = 2, #KEYS do
  local low, high = 0, floor_ms and redis.call('LLEN', KEYS[i]) or 0 -- the first one to stay
  while low < high do
    local middle = math.floor((low + high) / 2)
    local ms, seq = string.match(redis.call('LINDEX', KEYS[i], middle), '^(%d+)-(%d+)$')
    ms = tonumber(ms)
    if not ms or ms > floor_ms or (ms == floor_ms and tonumber(seq) > floor_seq) then
      high = middle
    else
      low = middle + 1
    end
  end
  if low > 0 then
    redis.call('LTRIM', KEYS[i], low, -1) -- PERF: to take one after the other out takes 100 ms of a session of 600,000 events
  end
  removed = removed + low
end
return removed
