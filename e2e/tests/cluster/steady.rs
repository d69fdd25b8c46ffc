//! A client that asks for tokens again and again, and never a second time for the same.

use crate::namespace::{Namespace, curl_for, fresh};

/// What such a client saw.
#[derive(Debug)]
pub(crate) struct SteadyClient {
    /// Every answer that was no token.
    complaints: Vec<String>,
    asked: u64,
}

/// A request that no cache can answer: each is for a resource of its own.
pub(crate) fn cold(series: &str) -> String {
    let request = curl_for(&fresh(&format!("{series}-SERIAL")), "");
    // The shell's count, outside of the quotes.
    request.replace("--max-time 30", "--max-time 60").replace("SERIAL", "'$n'")
}

impl SteadyClient {
    /// Runs in a pod for this long.
    pub(crate) async fn run(space: &Namespace, pod: &str, seconds: u32, request: &str) -> Self {
        let script = format!(
            r#"end=$((SECONDS + {seconds})); n=0
while [ $SECONDS -lt $end ]; do
  n=$((n + 1)); begun=$SECONDS
  answer=$({request} 2>&1)
  case "$answer" in
    *access_token*$'\n200') ;;
    *) echo "request $n, $((SECONDS - begun)) s: ${{answer//$'\n'/ }}" ;;
  esac
  sleep 0.1
done
echo "asked $n""#
        );
        let printed = space.exec(pod, &script).await.expect("the client runs to its end");
        let (asked, complaints): (Vec<&str>, Vec<&str>) =
            printed.lines().partition(|line| line.starts_with("asked "));
        Self {
            complaints: complaints.into_iter().map(str::to_owned).collect(),
            asked: asked[0].trim_start_matches("asked ").parse().unwrap(),
        }
    }

    /// Asserts that it asked so often at least, and always got its token.
    pub(crate) fn is_content(&self, least: u64) {
        assert!(self.complaints.is_empty(), "{:#?}", self.complaints);
        assert!(self.asked >= least, "only {} requests", self.asked);
    }
}
