local hosts = {HOSTS}
-- Each release behind the gateway decides for its own hosts which headers are trusted. Envoy takes everything after the
-- last colon for a port, even if it is empty or no number. The rest must be the name by which Envoy finds the routes.
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
