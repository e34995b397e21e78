-- Takes away what only the mesh may say: Envoy's own headers, and those that the gateway sets itself further on.
local set_here = {MINE}
local hosts = {HOSTS}
-- Other releases behind the same gateway say for themselves what is believed. Whatever follows the last colon is a port to
-- Envoy, even nothing or no number: what is left here must be the name by which it finds the routes.
local function is_mine(authority)
  local name = string.lower(string.gsub(authority or "", ":[^:%]]*$", ""))
  for _, host in ipairs(hosts) do
    if host == "*" or host == name then
      return true
    end
    if string.sub(host, 1, 1) == "*" and string.sub(name, 1 - #host) == string.sub(host, 2) then
      return true
    end
  end
  return false
end
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
  if is_mine(headers:get(":authority")) then
    for _, name in ipairs(set_here) do
      headers:remove(name)
    end
  end
end
