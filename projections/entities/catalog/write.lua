-- Writes entities into a library's catalog, each with a stamp of its own that is higher than all before. Then it lets
-- rows go that waited for what came. Its first parts are rows.lua and waiting.lua.
--
-- KEYS  as in rows.lua
-- ARGV  1: how many rows that wait are looked at, at most; then five for each write:
--         <form>:<letter>         u, m, b: an upsert; d: a delete marker; f: forget what waits; l: no more rows of this
--                                 user come, until it is deleted or written again
--         id
--         head                    the line up to its time
--         refs                    parents, one a line: table|id, or *table|id to give the parent a new time with this
--         expected                what the form's ids must hold for the id, or the place of what waits for it; empty:
--                                 anything. Only a write that expects nothing, or this, replaces what waits; * is a
--                                 write that expects nothing and lets it be; <form>:<place> is what another form's
--                                 ids must hold, whose rows go by a marker of this one; - is done only where there is no trace of
--                                 the id; & goes with the write before: an album's owner, if the album was taken
--
-- Returns one letter for each write (w written, u unchanged, h it waits from now on, e an equal one waits already, m not
-- as expected, c children are left, k the owner may not change, o a parent was deleted), how much has arrived for which
-- rows that wait are still to be looked at, then for each o, h and e: the number of the write, and the table of the parent or
-- the parent. A write that is not w, u, h or e changes nothing. Stamps are the server's time in µs, or one more than the
-- last.

local MOST_BYTES = 131072 -- of rows that waited, so that no call is long

local OWNER = ',"role":"owner"}$'

local function head_with(form, letter, data)
  return '{"type":"' .. form.types[letter] .. '","data":' .. data .. ',"ack":"' .. form.types[letter] .. '|'
end

-- What a head says, without its type.
local function data_of(form, letter, head)
  local skip = #form.types[letter]
  return string.sub(head, 19 + skip, #head - 9 - skip)
end

-- Lists the memberships that make somebody the owner of an album: of those served (edges), or of those that wait (wanted).
local function owners_of(form, parent, index)
  local prefix, found = parent .. '|' .. form.name .. '|', {}
  for _, member in ipairs(redis.call('ZRANGEBYLEX', index, '[' .. prefix, '(' .. string.sub(prefix, 1, -2) .. '}')) do
    local id = string.sub(member, #prefix + 1)
    local place = index == edges and redis.call('HGET', form.ids, id) or index == wanted and entry_of(form, id)
    local letter = string.sub(place, 1, 1)
    if string.find(data_of(form, letter, head_of(line_at(form, place), id)), OWNER) then found[#found + 1] = id end
  end
  return found
end

-- Rows of a user who is being deleted are found by reading all there are. No more come while that lasts.
local leaving = redis.call('HGET', meta, 'leaving') or '\n'

local function leaves(id)
  return string.find(leaving, '\n' .. id .. '\n', 1, true) ~= nil
end

local function leave(id)
  if leaves(id) then return end
  leaving = leaving .. id .. '\n'
  redis.call('HSET', meta, 'leaving', leaving)
end

local function stay(id)
  local from, to = string.find(leaving, '\n' .. id .. '\n', 1, true)
  if not from then return end
  leaving = string.sub(leaving, 1, from) .. string.sub(leaving, to + 1)
  redis.call(leaving == '\n' and 'HDEL' or 'HSET', meta, 'leaving', unpack(leaving == '\n' and {} or { leaving }))
end

-- Tells the table of a parent that was deleted, or is being, and not written again.
local function deleted_parent(refs)
  for _, name, id in string.gmatch(refs, REF) do
    if name == 'user' and leaves(id) then return name end
    local dead, living = false, false
    if tables[name].markers > 0 then
      for _, form in ipairs(tables[name].forms) do
        local held = redis.call('HGET', form.ids, id)
        if is_upsert(held) then living = true end
        if held and string.sub(held, 1, 1) == 'd' then dead = true end
      end
    end
    if dead and not living then return name end
  end
  return nil
end

-- A new row of a table ends the delete markers of its other forms. Where a device may have missed the delete, parts
-- that went without a marker are overwritten.
local function revive(form, id, held)
  local own = tables[form.table]
  local was_deleted = held and string.sub(held, 1, 1) == 'd'
  if not was_deleted and own.markers == 0 then return end
  for _, other in ipairs(own.forms) do
    local entry = other ~= form and redis.call('HGET', other.ids, id)
    if entry and string.sub(entry, 1, 1) == 'd' then
      take_out(other, id, entry, {})
      redis.call('HDEL', other.ids, id)
      was_deleted = true
    end
  end
  if not was_deleted then return end
  for _, part in ipairs(own.parts) do
    local entry = redis.call('HGET', part.ids, id)
    if entry and string.sub(entry, 1, 1) == 'r' then
      add(part, 'u', id, part.blank[1] .. escaped(id) .. part.blank[2])
    end
  end
end

local function link(form, id, refs)
  for star, name, parent in string.gmatch(refs, REF) do
    if star == '*' then
      local owner = tables[name].forms[1]
      local held = redis.call('HGET', owner.ids, parent)
      if is_upsert(held) then
        local line = line_at(owner, held)
        redis.call('ZREMRANGEBYSCORE', owner.rows[string.sub(held, 1, 1)], string.sub(held, 2), string.sub(held, 2))
        add(owner, string.sub(held, 1, 1), parent, head_of(line, parent))
      end
    else
      for _, ref in ipairs(form.refs) do
        if ref[2] == name then
          redis.call('ZADD', edges, 0, name .. '|' .. parent .. '|' .. form.name .. '|' .. id)
        end
      end
    end
  end
end

-- A device removes a user's rows with all below them. Had a row changed its owner since, it would come again, but not
-- what is below it: so an owner stays while there is anything.
local function is_bound(form, id, line, refs)
  local owner = string.match(refs, 'user|([^\n]+)')
  if not owner or string.find(line, '"ownerId":"' .. escaped(owner) .. '"', 1, true) then return false end
  for _, part in ipairs(tables[form.table].parts) do
    if is_upsert(redis.call('HGET', part.ids, id)) then return true end
  end
  return form.is_parent and has_any(edges, form.table, id)
end

local function remove(form, id, head, held, stays)
  local own = tables[form.table]
  local is_same = held and not is_upsert(held) and string.sub(line_at(form, held), 1, #head) == head
  if not is_same then
    if form.is_parent and has_any(edges, form.table, id) then return 'c' end
    if any_waits and has_any(wanted, form.table, id) then return 'c' end
  end
  for _, other in ipairs(own.forms) do
    if not stays then forget(other, id) end
  end
  if is_same then return 'u' end
  known = {}
  if any_checksums and own.forms[1].excludes then
    for _, other in ipairs(own.forms) do redis.call('ZREM', checksums, other.name .. '|' .. id) end
  end
  local cut = {}
  for _, other in ipairs(own.forms) do
    local entry = other ~= form and redis.call('HGET', other.ids, id)
    if is_upsert(entry) then
      take_out(other, id, entry, cut)
      redis.call('HDEL', other.ids, id)
      if other.rows.d then
        add(other, 'd', id, head_with(other, 'd', data_of(form, 'd', head)))
      end
    end
  end
  for _, part in ipairs(own.parts) do
    local entry = redis.call('HGET', part.ids, id)
    if is_upsert(entry) then
      take_out(part, id, entry, cut)
      redis.call('HSET', part.ids, id, 'r' .. string.format('%.0f', last))
    end
  end
  if held then take_out(form, id, held, cut) end
  add(form, 'd', id, head)
  if form.table == 'user' then stay(id) end
  if any_waits then
    unbind_all(cut)
    if stays then unbind(form.table, id) end
  end
  return 'w'
end

-- An album has one owner: who becomes it, or waits to, takes the place of all who did before.
local function depose(form, id, refs, waits_itself)
  local parent = string.match(refs, '%*([^\n]+)')
  if not parent then return end
  for _, other in ipairs(owners_of(form, parent, wanted)) do
    if other ~= id then forget(form, other) end
  end
  if waits_itself then return end
  for _, other in ipairs(owners_of(form, parent, edges)) do
    if other ~= id then
      local held = redis.call('HGET', form.ids, other)
      local data = string.gsub(data_of(form, string.sub(held, 1, 1), head_of(line_at(form, held), other)), OWNER, '}')
      remove(form, other, head_with(form, 'd', data), held, true)
    end
  end
end

-- What no other row of the table may have too: owner, checksum and external library, as a head says them.
local function claim_of(head)
  return table.concat({
    string.match(head, '"ownerId":(.-),"originalFileName"') or '', string.match(head, '"checksum":(.-),"thumbhash"') or '',
    string.match(head, '"libraryId":(.-),"width"') or ''
  }, '\n')
end

-- Tells whether a device may have a row with another claim; what it had of one that was deleted is not known any more.
local function changes_claim(form, id, head, line, held)
  if held and not line then return true end
  if line then return claim_of(line) ~= claim_of(head) end
  for _, other in ipairs(tables[form.table].forms) do
    local entry = other ~= form and redis.call('HGET', other.ids, id)
    if entry and not (is_upsert(entry) and claim_of(line_at(other, entry)) == claim_of(head)) then return true end
  end
  return false
end

local function upsert(form, letter, id, head, refs, held, stays)
  local line = is_upsert(held) and line_at(form, held)
  if line then
    if string.sub(held, 1, 1) == letter and string.sub(line, 1, #head) == head then
      if not stays then
        forget(form, id)
        depose(form, id, refs, false)
      end
      return 'u'
    end
    if form.is_owned and is_bound(form, id, line, refs) then return 'k' end
  end
  local orphaned_by = deleted_parent(refs)
  if orphaned_by then return 'o', orphaned_by end
  if not stays then
    local ref = missing(refs, form, line)
    if ref then
      depose(form, id, refs, true)
      return hold(form, letter, id, head, refs, ref), ref
    end
    forget(form, id)
    depose(form, id, refs, false)
  end
  if form.table == 'user' then stay(id) end
  local changes = form.excludes and changes_claim(form, id, head, line, held)
  local comes, cut = any_waits and not is_there(form.table, id), {}
  if held then take_out(form, id, held, cut) end
  revive(form, id, held)
  add(form, letter, id, head, changes)
  link(form, id, refs)
  unbind_all(cut)
  if comes then arrive(form.table, id) end
  return 'w'
end

-- Tells under which id, and as what, somebody owns an album already: a pair may have been given an id.
local function as_owned(form, letter, id, head, refs, held)
  local data = data_of(form, letter, head)
  for _, other in ipairs(owners_of(form, string.match(refs, '%*([^\n]+)'), edges)) do
    local place = redis.call('HGET', form.ids, other)
    local its = string.sub(place, 1, 1)
    if data_of(form, its, head_of(line_at(form, place), other)) == data then
      return its, other, place, head_with(form, its, data)
    end
  end
  return letter, id, held, head
end

-- Writes a row that waited, if all its parents are there.
local function let_go(form, id)
  local place, _, refs = entry_of(form, id)
  if not place then return 0 end
  local held, line = redis.call('HGET', form.ids, id), line_at(form, place)
  upsert(form, string.sub(place, 1, 1), id, head_of(line, id), refs, held, false)
  return #line
end

-- Looks at rows that wait for a parent, or for any of a table (*), in their order and at no more than so many: the last is
-- noted, because rows that wait for something else as well stay where they are. Returns how many, and of how many bytes.
local function look_at_children(came, most, room)
  local parent = string.match(came, '^%*?(.+)$')
  local done, from, at, bytes = redis.call('HGET', meta, 'looked_at'), '[' .. parent .. '|', 0, 0
  if done and string.sub(done, 1, #came + 1) == came .. '\n' then from = '(' .. string.sub(done, #came + 2) end
  local members = redis.call('ZRANGEBYLEX', wanted, from, '(' .. parent .. '}', 'LIMIT', 0, most)
  while at < #members and bytes < room do
    at = at + 1
    local name, id = string.match(members[at], '([^|]+)|([^|]+)$')
    bytes = bytes + let_go(named[name], id)
  end
  if at == #members and at < most then
    redis.call('ZREM', arrived, came)
    redis.call('HDEL', meta, 'looked_at')
  else
    redis.call('HSET', meta, 'looked_at', came .. '\n' .. members[at])
  end
  return at, bytes
end

-- Looks at rows that wait, in the order in which came what they are to be looked at for, and at no more than so many.
local function let_all_go(most)
  local room = MOST_BYTES
  while most > 0 and room > 0 do
    local came = redis.call('ZRANGE', arrived, 0, 0)[1]
    if not came then return end
    local at, bytes
    local name, id = string.match(came, '^=([^|]+)|(.+)$')
    if name then
      redis.call('ZREM', arrived, came)
      at, bytes = 0, let_go(named[name], id)
    else
      at, bytes = look_at_children(came, most, room)
    end
    most, room = most - at - 1, room - bytes
  end
end

local codes, others = {}, {}
for at = 2, #ARGV, 5 do
  local name, letter = string.match(ARGV[at], '^([^:]+):(%a)$')
  local form, id, head, refs, expected = named[name], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local held, stays = redis.call('HGET', form.ids, id), expected ~= ''
  local is_as_expected, code, why = expected == '' or expected == '*' or held == expected, nil, nil
  local of, place = string.match(expected, '^([^:]+):(.+)$')
  if of then
    local waits_there = place == entry_of(named[of], id)
    is_as_expected, stays = waits_there or place == redis.call('HGET', named[of].ids, id), not waits_there
  elseif expected == '-' then
    is_as_expected = not held
  elseif expected == '&' then
    is_as_expected, stays = string.find('wuhe', codes[#codes], 1, true) ~= nil, false
    letter, id, held, head = as_owned(form, letter, id, head, refs, held)
  elseif not is_as_expected and expected == entry_of(form, id) then
    is_as_expected, stays = true, false
  end
  if not is_as_expected then
    code = 'm'
  elseif letter == 'd' then
    code = remove(form, id, head, held, stays)
  elseif letter == 'f' then
    forget(form, id)
    code = 'w'
  elseif letter == 'l' then
    leave(id)
    code = 'w'
  else
    code, why = upsert(form, letter, id, head, refs, held, stays)
  end
  codes[#codes + 1] = code
  if why then
    others[#others + 1] = #codes - 1
    others[#others + 1] = why
  end
end
let_all_go(tonumber(ARGV[1]))
if last > first then
  redis.call('HSET', meta, 'last', string.format('%.0f', last))
  -- Wakes who listens. A server that forbids it says so to them; the write is none the worse.
  redis.pcall('SPUBLISH', meta, '')
  if first == 0 then redis.call('HSET', meta, 'born', string.format('%.0f', last)) end
end
for field, place in pairs(newest) do redis.call('HSET', meta, field, place) end
return { table.concat(codes), redis.call('ZCARD', arrived), unpack(others) }
