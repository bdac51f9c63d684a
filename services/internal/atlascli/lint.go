package atlascli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"ariga.io/atlas-go-sdk/atlasexec"
)

// Lint replays a directory in Atlas's form in the empty database of a DSN (a URI), which is for nothing else, and reports
// what Atlas's analyzers find in its newest files.
func (c *CLI) Lint(ctx context.Context, dsn, dir string, latest int) (*atlasexec.SummaryReport, error) {
	client, target, err := c.client(dsn)
	if err != nil {
		return nil, err
	}
	// The SDK's MigrateLint would take a program that was killed for one that printed too many reports.
	var out bytes.Buffer
	err = client.MigrateLintError(ctx, &atlasexec.MigrateLintParams{DevURL: target, DirURL: dirURL(dir), Latest: uint64(latest), Writer: &out})
	if err != nil && !errors.Is(err, atlasexec.ErrLint) {
		return nil, failed(ctx, "migrate lint", err)
	}
	var report atlasexec.SummaryReport
	if err := json.NewDecoder(&out).Decode(&report); err != nil {
		return nil, failed(ctx, "migrate lint", err)
	}
	for _, f := range report.Files {
		if cutOffText.MatchString(f.Error) {
			return nil, cutOff(fmt.Errorf("atlas migrate lint: %s", f.Error)) // It says nothing of the file.
		}
	}
	return &report, nil
}
