-- Strips the headers that only the mesh may set: Envoy's own, and those that later filters of the gateway set. Hides a
-- deadline of gRPC from the router, which would take the end of a client's patience for a failure of the pod. The
-- server gets it, or that of REST where it is later.
local set_here = {MINE}
local seconds = {H = 3600, M = 60, S = 1, m = 1e-3, u = 1e-6, n = 1e-9}
local most = MOST_SECONDS
function envoy_on_request(handle)
  local headers = handle:headers()
  local gone = {}
  for name in pairs(headers) do
    if string.sub(name, 1, 8) == "x-envoy-" then
      gone[#gone + 1] = name
    end
  end
  for _, name in ipairs(gone) do
    headers:remove(name)
  end
  for _, name in ipairs(set_here) do
    headers:remove(name)
  end
  if string.sub(headers:get("content-type") or "", 1, 16) == "application/grpc" then
    local given = headers:get("grpc-timeout") or ""
    local number, unit = string.match(given, "^(%d+)([HMSmun])$")
    if number == nil or tonumber(number) * seconds[unit] > most then
      given = most .. "S"
    end
    headers:remove("grpc-timeout")
    headers:add("DEADLINE_HEADER", given)
  end
end
