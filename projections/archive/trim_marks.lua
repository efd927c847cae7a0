-- Remove the marks of archived events.
-- KEYS  archive (hash), then marks of sessions (lists)
-- Gives how many were removed.
local floor_ms, floor_seq = string.match(redis.call('HGET', KEYS[1], 'floor') or '', '^(%d+)-(%d+)$')
floor_ms, floor_seq = tonumber(floor_ms), tonumber(floor_seq)
local removed = 0
for i = 2, #KEYS do
  while floor_ms do
    local ms, seq = string.match(redis.call('LINDEX', KEYS[i], 0) or '', '^(%d+)-(%d+)$')
    ms = tonumber(ms)
    if not ms or ms > floor_ms or (ms == floor_ms and tonumber(seq) > floor_seq) then
      break
    end
    redis.call('LPOP', KEYS[i])
    removed = removed + 1
  end
end
return removed
