-- Put a living session in its place in the order of devices: a class and an instant of it. 0: stuck; 2^43: heard of since
-- it last completed a stream; 2^44: not heard of since. append.lua and load.lua have the same of their own.
-- `counts`: from when its place counts, in ms; `stuck`: since when it is stuck, '' for not, '=' to leave that as it is.
local function put_in_place(order, activity, sid, counts, stuck)
  if stuck ~= '' and stuck ~= '=' then
    redis.call('ZADD', order, stuck, sid)
    return
  end
  local placed = stuck == '=' and tonumber(redis.call('ZSCORE', order, sid) or 2 ^ 43) or 2 ^ 43
  if placed >= 2 ^ 43 then
    local class = tonumber(redis.call('ZSCORE', activity, sid) or 0) > tonumber(counts) and 2 ^ 43 or 2 ^ 44
    redis.call('ZADD', order, string.format('%.0f', class + counts), sid)
  end
end
