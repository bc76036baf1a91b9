"""The scripts that change several things in Redis in one step. All workers are consumers of the group `workers`."""

ADD = """
local half, owners, lanes, entries = (#KEYS - 1) / 2, KEYS[#KEYS], {}, {}
local function find(first, client)
  local empty
  for lane = first, first + half - 1 do
    if redis.call('XLEN', KEYS[lane]) == 0 then
      empty = empty or lane
    elseif redis.call('HGET', owners, lane) == client then
      return lane
    end
  end
  if empty then
    redis.call('HSET', owners, empty, client)
    return empty
  end
  local number = tonumber(string.sub(client, 1, 8), 16)
  local one, other = first + number % half, first + math.floor(number / half) % half
  return redis.call('XLEN', KEYS[one]) <= redis.call('XLEN', KEYS[other]) and one or other
end
redis.call('SET', ARGV[2], 1, 'PX', ARGV[3])
for i = 4, #ARGV, 4 do
  local whose = ARGV[i] .. ARGV[i + 1]
  local lane = lanes[whose] or find(ARGV[i] == '1' and half + 1 or 1, ARGV[i + 1])
  lanes[whose] = lane
  local fields = {'id', ARGV[i + 2], 'reply', ARGV[1], 'api', ARGV[2], 'submission', ARGV[i + 3]}
  entries[#entries + 1] = lane - 1
  entries[#entries + 1] = redis.call('XADD', KEYS[lane], '*', unpack(fields))
end
return entries
"""
"""KEYS: the streams, those of one kind first; the hash of their owners. ARGV: key that takes the results; key of the
caller's sign of life, and for how many milliseconds it holds; of each job whether it is long (1 or 0), the client (hex
digits), id and submission. Returns of each the number of its stream, from 0, and its entry.

A client's jobs go to the stream that it owns, or else to an empty one, which it then owns. Where there is none it has
two to share, always the same, and the shorter of them is taken: so a client with many jobs fills no others."""

EXCHANGE = """
local replies = {}
for i = 4, #ARGV, 5 do
  local stream, entry, reply = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  redis.call('XADD', reply, '*', 'id', ARGV[i + 3], 'result', ARGV[i + 4])
  redis.call('XACK', stream, 'workers', entry)
  redis.call('XDEL', stream, entry)
  replies[reply] = true
end
for reply in pairs(replies) do redis.call('EXPIRE', reply, ARGV[1]) end
local room, half, jobs = tonumber(ARGV[3]), #KEYS / 2, {}
local function take(from, most)
  local lanes, taken = {}, 0
  for i = from, from + half - 1 do
    if redis.call('XLEN', KEYS[i]) > 0 then lanes[#lanes + 1] = KEYS[i] end
  end
  while #lanes > 0 and taken < most do
    local more = {}
    for place, stream in ipairs(lanes) do
      local share = math.ceil((most - taken) / (#lanes - place + 1))
      if share == 0 then break end
      local new = redis.pcall('XREADGROUP', 'GROUP', 'workers', ARGV[2], 'COUNT', share, 'STREAMS', stream, '>')
      if new and not new.err then
        jobs[#jobs + 1] = new[1]
        taken = taken + #new[1][2]
        if #new[1][2] == share then more[#more + 1] = stream end
      end
    end
    lanes = more
  end
  return taken
end
if room > 0 then
  local most = math.ceil(room / 2)
  local first = take(1, most)
  local second = take(half + 1, room - first)
  if first == most then take(1, room - first - second) end
end
return jobs
"""
"""KEYS: the streams, those of the kind whose turn it is first, and of each kind those that wait longest for their turn
first. ARGV: seconds that the results wait, the caller's name, the most new jobs; stream, entry, key for the result, id
and result of each finished job. Each result and the end of its job in one step; then the next jobs, as XREADGROUP
returns them, half and half of the two kinds where both have enough, and of the streams of a kind as many each."""

WITHDRAW = """
local withdrawn = {}
for _, id in ipairs(ARGV) do
  if #redis.pcall('XPENDING', KEYS[1], 'workers', id, id, 1) == 0 and redis.call('XDEL', KEYS[1], id) == 1 then
    withdrawn[#withdrawn + 1] = id
  end
end
return withdrawn
"""
"""KEYS: stream. ARGV: entries. Deletes those that no worker has taken and returns them."""

MISSING = """
local missing = {}
for _, id in ipairs(ARGV) do
  if #redis.call('XRANGE', KEYS[1], id, id) == 0 then missing[#missing + 1] = id end
end
return missing
"""
"""KEYS: stream. ARGV: entries. Returns those that are not there."""

RECLAIM = """
local taken, most = {}, tonumber(ARGV[3])
local function reclaim(stream, name)
  for _, entry in ipairs(redis.call('XPENDING', stream, 'workers', '-', '+', most - #taken, name)) do
    -- Counted as a delivery only when it is begun.
    local claimed = redis.call('XCLAIM', stream, 'workers', ARGV[2], 0, entry[1], 'RETRYCOUNT', entry[4])
    if claimed[1] then
      taken[#taken + 1] = {stream, claimed[1][1], claimed[1][2], entry[4]}
    else
      redis.call('XACK', stream, 'workers', entry[1])
    end
  end
end
for _, stream in ipairs(KEYS) do
  local consumers = redis.pcall('XINFO', 'CONSUMERS', stream, 'workers')
  -- Nobody has created the stream or the group yet.
  if consumers.err then consumers = {} end
  for _, consumer in ipairs(consumers) do
    local name, pending = consumer[2], consumer[4]
    if redis.call('EXISTS', ARGV[1] .. name) == 0 then
      if pending == 0 then
        redis.call('XGROUP', 'DELCONSUMER', stream, 'workers', name)
      elseif #taken < most then
        reclaim(stream, name)
      end
    end
  end
end
return taken
"""
"""KEYS: streams. ARGV: prefix of the workers' keys, the caller's name, the most entries. Gives the caller what workers
without a sign of life have taken: stream, entry, fields, number of deliveries so far. Forgets those workers."""

BEGIN = """
for i = 2, #ARGV, 2 do
  redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], 0, ARGV[i], 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
end
"""
"""KEYS: stream. ARGV: the caller's name; entry and number of deliveries of each job that the caller begins."""

RECOVER = """
local known, found = {}, {}
for i = 2, #ARGV do known[ARGV[i]] = true end
for _, stream in ipairs(KEYS) do
  for _, pending in ipairs(redis.call('XPENDING', stream, 'workers', '-', '+', 100000, ARGV[1])) do
    if not known[stream .. pending[1]] then
      local entry = redis.call('XRANGE', stream, pending[1], pending[1])[1]
      if entry then
        found[#found + 1] = {stream, entry[1], entry[2], pending[4]}
      else
        redis.call('XACK', stream, 'workers', pending[1])
      end
    end
  end
end
return found
"""
"""KEYS: streams. ARGV: the caller's name, stream + entry of what it knows. Returns what else is the caller's, as
RECLAIM does, without counting it as a delivery: the reply that brought it was lost."""

RELEASE = """
local known, uncounted = {}, {}
local keeps = tonumber(ARGV[2])
for i = 3, 2 + keeps do known[ARGV[i]] = true end
for i = 3 + keeps, #ARGV do uncounted[ARGV[i]] = true end
for _, pending in ipairs(redis.call('XPENDING', KEYS[1], 'workers', '-', '+', 100000, ARGV[1])) do
  if not known[pending[1]] then
    local count = pending[4]
    if not uncounted[pending[1]] then count = count - 1 end
    redis.call('XCLAIM', KEYS[1], 'workers', 'released', 0, pending[1], 'RETRYCOUNT', count, 'JUSTID')
  end
end
"""
"""KEYS: stream. ARGV: the caller's name; number of entries that it keeps, and these; entries that it has not counted as
delivered. Leaves the rest of what is the caller's to RECLAIM. The caller has not begun it, or has stopped it, so what
was counted as a delivery to it no longer is."""

STATUSES = """
local statuses = {}
for _, name in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local status = redis.call('GET', ARGV[1] .. name)
  if status then statuses[#statuses + 1] = status else redis.call('SREM', KEYS[1], name) end
end
return statuses
"""
"""KEYS: names of the workers. ARGV: prefix of the workers' keys. Returns the statuses of the live workers."""
