// The process that holds a pod's namespaces open.
module pod-identity.local/control-plane/pause

go 1.24.0
