-- Gives a token's claims to the headers that routes read, which the guard has stripped. Puts every user into one of a
-- hundred buckets, always the same one. The hash is FNV-1a, spread by the last steps of murmur3.
local claims = {CLAIMS}
local bit = require("bit")
-- a * b modulo 2^32, computed in two parts because a double holds 53 bits.
local function times(a, b)
  local low = bit.band(a, 0xffff) * b
  local high = bit.tobit(bit.rshift(a, 16) * b)
  return bit.tobit(low + bit.lshift(high, 16))
end
function envoy_on_request(handle)
  local headers = handle:headers()
  for from, to in pairs(claims) do
    local claim = headers:get(from)
    if claim ~= nil then
      headers:replace(to, claim)
      headers:remove(from)
    end
  end
  local user = headers:get("USER_HEADER")
  if user == nil or user == "" then
    return
  end
  local text = "MODEL:" .. user
  local hash = bit.tobit(2166136261)
  for index = 1, #text do
    hash = times(bit.bxor(hash, string.byte(text, index)), 16777619)
  end
  hash = times(bit.bxor(hash, bit.rshift(hash, 16)), 2246822507)
  hash = times(bit.bxor(hash, bit.rshift(hash, 13)), 3266489909)
  hash = bit.bxor(hash, bit.rshift(hash, 16))
  if hash < 0 then
    hash = hash + 4294967296
  end
  headers:replace("BUCKET_HEADER", string.format("%02d", hash % 100))
end
