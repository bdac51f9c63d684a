package forward_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/tenantry/tenantry/services/gateway/internal/forward"
	"github.com/tenantry/tenantry/services/internal/rpc"
)

func write(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "upstreams.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestAFileOfUpstreamsIsReadWithAllItsFields(t *testing.T) {
	t.Parallel()
	got, err := forward.Read(write(t, `
upstreams:
  - name: readings
    services: [readings.v1.ReadingsService, readings.v1.Other]
    addresses: [a:1, "[::1]:65535"]
    connections: 3
    max_message_bytes: 1000
    max_metadata_bytes: 2000
    max_concurrent: 4
    breaker_threshold: 5
    timeout: 1m30s
    unchecked: true
  - {name: upstream/small, services: [s], addresses: [b:2]}
`))
	require.NoError(t, err)
	require.Equal(t, []forward.Upstream{
		{Name: "upstream/readings", Services: []string{"readings.v1.ReadingsService", "readings.v1.Other"}, Addresses: []string{"a:1", "[::1]:65535"}, Connections: 3,
			MaxMessageBytes: 1000, MaxMetadataBytes: 2000, MaxConcurrent: 4, BreakerThreshold: 5, Timeout: 90 * time.Second, Unchecked: true},
		{Name: "upstream/small", Services: []string{"s"}, Addresses: []string{"b:2"}},
	}, got)
	none, err := forward.Read(write(t, "upstreams: []\n"))
	require.NoError(t, err)
	require.Empty(t, none)
}

func TestTheExampleFileSaysTheDefaults(t *testing.T) {
	t.Parallel()
	got, err := forward.Read("../../../../deploy/upstreams.yaml")
	require.NoError(t, err)
	require.Equal(t, []forward.Upstream{{Name: "upstream/readings", Services: []string{"readings.v1.ReadingsService"}, Addresses: []string{"readings-1:7500", "readings-2:7500"},
		Connections: forward.DefaultConnections, MaxMessageBytes: rpc.MaxMessage, MaxMetadataBytes: forward.DefaultMetadataBytes,
		MaxConcurrent: forward.DefaultConcurrent, BreakerThreshold: forward.DefaultBreaker, Timeout: 30 * time.Second}}, got)
}

func TestAWrongFileSaysWhereAndWhy(t *testing.T) {
	t.Parallel()
	const good = "upstreams:\n  - name: n\n    services: [s.S]\n    addresses: [a:1]\n"
	for text, want := range map[string]string{
		"":                                "upstreams: got none",
		"upstreams:\n":                    "upstreams: got none",
		"upstreams: 5\n":                  "upstreams: got none",
		"upstreams: [\n":                  "line 1: did not find expected node content",
		good + "    color: x\n":           "line 5: the field color is unknown",
		good + "more: 1\n":                "line 5: the field more is unknown",
		good + "    connections: many\n":  "line 5: cannot unmarshal",
		good + "    connections: 65\n":    "line 5: upstreams[0].connections: got 65, want 1 to 64",
		good + "    max_concurrent: -1\n": `line 5: upstreams[0].max_concurrent: got -1`,
		good + "    max_message_bytes: 99999999\n":                                             "upstreams[0].max_message_bytes: got 99999999, want 1 to 16777216",
		good + "    max_metadata_bytes: 9999999\n":                                             "upstreams[0].max_metadata_bytes: got 9999999, want 1 to 1048576",
		good + "    breaker_threshold: -2\n":                                                   "upstreams[0].breaker_threshold: got -2",
		good + "    timeout: -1s\n":                                                            "line 5: upstreams[0].timeout: got -1s",
		good + "    timeout: long\n":                                                           "line 5: cannot unmarshal",
		good + "    name: again\n":                                                             "already defined at line 2",
		good + "  - {name: n, services: [s], addresses: [a:1]}\n":                              "line 5: upstreams[1].name: got upstream/n again",
		good + "  - {name: m, services: [s.S], addresses: [a:1]}\n":                            "line 5: upstreams[1].services[0]: got s.S again",
		good + "---\nupstreams: []\n":                                                          "more than one document",
		"upstreams:\n  - services: [s]\n    addresses: [a:1]\n":                                `line 2: upstreams[0].name: got ""`,
		"upstreams:\n  - name: x/y\n    services: [s]\n    addresses: [a:1]\n":                 `line 2: upstreams[0].name: got "x/y"`,
		"upstreams:\n  - name: n\n    addresses: [a:1]\n":                                      "line 2: upstreams[0].services: got none",
		"upstreams:\n  - name: n\n    services: [s, /s/M]\n    addresses: [a:1]\n":             `line 3: upstreams[0].services[1]: got "/s/M"`,
		"upstreams:\n  - name: n\n    services: [s]\n":                                         "line 2: upstreams[0].addresses: got none",
		"upstreams:\n  - name: n\n    services: [s]\n    addresses:\n      - a:1\n      - b\n": `line 6: upstreams[0].addresses[1]: got "b", want HOST:PORT`,
	} {
		_, err := forward.Read(write(t, text))
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), "forward.", text)
	}
	_, err := forward.Read("/no/such/file")
	require.ErrorIs(t, err, os.ErrNotExist)
}
