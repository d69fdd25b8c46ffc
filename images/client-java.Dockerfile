# A client application in Java: a runtime and Azure's libraries. For the tests.
FROM scratch
COPY root/ /
USER 65532:65532
# A program that ends in a second has no use for the second compiler.
ENV JDK_JAVA_OPTIONS="-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:-UsePerfData"
ENTRYPOINT ["/jre/bin/java", "-cp", "/client:/client/*", "Client"]
