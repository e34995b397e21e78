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
