-- Read a page of a partition's entries, bounded in entries and in bytes.
-- KEYS  stream
-- ARGV  from where and up to where, as XRANGE takes them; how many at most; how many bytes, but for the last few entries
-- Gives {the entries, 1 if there may be more}. At least one entry comes, however long it is.
local rows, size, from = {}, 0, ARGV[1]
local most, bytes = tonumber(ARGV[3]), tonumber(ARGV[4])
local step = 2 -- PERF: it grows as long as the next events may be expected to fit: what is read and left is read again
while #rows < most do
  local asked = math.min(step, most - #rows)
  local found = redis.call('XRANGE', KEYS[1], from, ARGV[2], 'COUNT', asked)
  for _, row in ipairs(found) do
    rows[#rows + 1] = row
    local values = row[2]
    if values[9] == 'event' then -- where append.lua puts it; all others are short
      size = size + 256 + #values[10]
    else
      for _, value in ipairs(values) do
        size = size + #value
      end
    end
    if size >= bytes then
      return {rows, 1}
    end
  end
  if #found < asked then
    return {rows, 0}
  end
  step = math.max(1, math.min(2 * step, 64, math.ceil((bytes - size) * #rows / (size + 1))))
  from = '(' .. found[#found][1]
end
return {rows, 1}
