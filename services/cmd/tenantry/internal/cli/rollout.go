package cli

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	provisionerv1 "github.com/tenantry/tenantry/proto/gen/go/tenantry/provisioner/v1"
	"github.com/tenantry/tenantry/services/internal/fault"
)

// progress shows a rollout as it goes.
type progress interface {
	// rollout is called with the counts as they change.
	rollout(r *provisionerv1.Rollout) error
	// result is called once for each tenant's result.
	result(r *provisionerv1.TenantResult) error
	// end is called when nothing more comes, whether the rollout has ended or the watching was cut off.
	end(r *provisionerv1.Rollout) error
}

// watch follows one rollout to its end, through restarts of the provisioner.
type watch struct {
	app     *app
	client  provisionerv1.RolloutServiceClient
	rollout *provisionerv1.Rollout
	show    progress
	// told are the companies whose result was shown: those that came while nobody watched are asked for at the end.
	told map[string]bool
}

func (w *watch) run(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, w.show.end(w.rollout)) }()
	w.told = map[string]bool{}
	for !w.ended() {
		err := w.follow(ctx)
		if err != nil && !fault.Retryable(err) {
			return err
		}
		if w.ended() {
			break
		}
		// The provisioner is being restarted, or another copy has taken over.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
	if err := w.tellMissed(ctx); err != nil {
		return err
	}
	if failed := w.rollout.GetFailed(); failed > 0 || w.rollout.GetState() != provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED {
		return &tenantsFailedError{failed: failed, total: w.rollout.GetTotal()}
	}
	return nil
}

func (w *watch) ended() bool {
	switch w.rollout.GetState() {
	case provisionerv1.RolloutState_ROLLOUT_STATE_SUCCEEDED, provisionerv1.RolloutState_ROLLOUT_STATE_FAILED,
		provisionerv1.RolloutState_ROLLOUT_STATE_CANCELLED:
		return true
	default:
		return false
	}
}

// follow shows what one stream says.
func (w *watch) follow(ctx context.Context) error {
	stream, err := w.client.WatchRollout(ctx, &provisionerv1.WatchRolloutRequest{RolloutId: w.rollout.GetRolloutId()})
	if err != nil {
		return err
	}
	for {
		news, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, result := range news.GetResults() {
			if err := w.tell(result); err != nil {
				return err
			}
		}
		if news.GetRollout() != nil {
			w.rollout = news.GetRollout()
			if err := w.show.rollout(w.rollout); err != nil {
				return err
			}
		}
	}
}

func (w *watch) tell(r *provisionerv1.TenantResult) error {
	if w.told[r.GetCompanyId()] {
		return nil
	}
	w.told[r.GetCompanyId()] = true
	return w.show.result(r)
}

// tellMissed shows the results that came before the stream began or while it was cut off.
func (w *watch) tellMissed(ctx context.Context) error {
	if len(w.told) >= int(w.rollout.GetTotal()) {
		return nil
	}
	request := &provisionerv1.ListRolloutResultsRequest{RolloutId: w.rollout.GetRolloutId(), PageSize: 1000}
	for {
		page, err := w.client.ListRolloutResults(ctx, request)
		if err != nil {
			return err
		}
		for _, r := range page.GetResults() {
			if err := w.tell(r); err != nil {
				return err
			}
		}
		if request.PageToken = page.GetNextPageToken(); request.PageToken == "" {
			return nil
		}
	}
}

const resultPrefix = "TENANT_RESULT_STATE_"

// resultLine tells one tenant's result on one line, or for a failure, whose statement may be long, on several.
func resultLine(r *provisionerv1.TenantResult) string {
	name := r.GetSlug()
	if name == "" {
		name = r.GetCompanyId()
	}
	var b strings.Builder
	b.WriteString(strings.ToLower(stateName(r.GetState(), resultPrefix)) + "  " + name)
	if r.GetToVersion() != "" {
		b.WriteString("  " + versionStep(r.GetFromVersion(), r.GetToVersion()))
	}
	if d := r.GetDuration(); d != nil {
		b.WriteString("  " + d.AsDuration().Round(time.Millisecond).String())
	}
	e := r.GetError()
	if e == nil {
		return b.String()
	}
	b.WriteString("\n  " + e.GetReason() + ": " + e.GetMessage())
	for _, detail := range [][2]string{
		{"set", e.GetSet()}, {"file", e.GetFile()}, {"sqlstate", e.GetSqlstate()}, {"statement", e.GetStatement()},
	} {
		if detail[1] != "" {
			b.WriteString("\n  " + detail[0] + ": " + strings.ReplaceAll(strings.TrimSpace(detail[1]), "\n", "\n    "))
		}
	}
	return b.String()
}

func versionStep(from, to string) string {
	switch from {
	case to:
		return "at " + to
	case "":
		return "to " + to
	default:
		return from + " to " + to
	}
}
