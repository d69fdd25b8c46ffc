# The local cluster's own pause image: holds the namespaces of a pod.
FROM scratch
COPY pause /pause
USER 65532:65532
ENTRYPOINT ["/pause"]
