package main

import (
	"context"
	"errors"
	"io"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	readingsv1 "github.com/tenantry/tenantry/examples/gen/go/readings/v1"
)

// service keeps readings in the tables that every company's database is born with.
type service struct {
	readingsv1.UnimplementedReadingsServiceServer
	db database
}

// AddMeter writes the maker, the device and the meter in one transaction.
func (s *service) AddMeter(ctx context.Context, r *readingsv1.AddMeterRequest) (*readingsv1.AddMeterResponse, error) {
	err := s.db.all(ctx,
		statement(`INSERT INTO manufacturers (name, kind) VALUES ($1, 'meter') ON CONFLICT DO NOTHING`, r.GetManufacturer()),
		statement(`INSERT INTO meter_types (name, max_current_a) VALUES ('single phase', 60) ON CONFLICT DO NOTHING`),
		statement(`INSERT INTO devices (kind, serial, manufacturer_id)
			SELECT 'meter', $1, id FROM manufacturers WHERE name = $2 AND kind = 'meter' ON CONFLICT DO NOTHING`,
			r.GetMeter(), r.GetManufacturer()),
		statement(`INSERT INTO meters (device_id, meter_type_id)
			SELECT d.id, t.id FROM devices d, meter_types t WHERE d.serial = $1 AND t.phases = 1 AND t.max_current_a = 60
			ON CONFLICT DO NOTHING`, r.GetMeter()))
	if err != nil {
		return nil, err
	}
	return &readingsv1.AddMeterResponse{}, nil
}

// RecordReading stores one reading.
func (s *service) RecordReading(ctx context.Context, r *readingsv1.RecordReadingRequest) (*readingsv1.RecordReadingResponse, error) {
	stored, err := s.record(ctx, r.GetReading())
	if err != nil {
		return nil, err
	}
	return &readingsv1.RecordReadingResponse{Reading: stored}, nil
}

// ImportReadings stores what can be stored of many.
func (s *service) ImportReadings(in grpc.ClientStreamingServer[readingsv1.ImportReadingsRequest, readingsv1.ImportReadingsResponse]) error {
	var answer readingsv1.ImportReadingsResponse
	for {
		r, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return in.SendAndClose(&answer)
		}
		if err != nil {
			return err
		}
		if _, err := s.record(in.Context(), r.GetReading()); err != nil {
			answer.Refused++
			continue
		}
		answer.Stored++
	}
}

// ListReadings streams as the rows come, and says in the trailers how many there were.
func (s *service) ListReadings(r *readingsv1.ListReadingsRequest, out grpc.ServerStreamingServer[readingsv1.ListReadingsResponse]) error {
	ctx := out.Context()
	if err := s.known(ctx, r.GetMeter()); err != nil {
		return err
	}
	count := 0
	err := s.db.query(ctx, func(columns []string) error {
		count++
		reading, err := readingOf(r.GetMeter(), columns)
		if err != nil {
			return err
		}
		return out.Send(&readingsv1.ListReadingsResponse{Reading: reading})
	}, `SELECT c.reading_date, c.total_kwh, c.consumed_kwh, to_char(c.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
		FROM meter_consumptions c JOIN devices d ON d.id = c.meter_id WHERE d.serial = $1 ORDER BY c.reading_date`, r.GetMeter())
	out.SetTrailer(metadata.Pairs("readings-count", strconv.Itoa(count)))
	return err
}

// Exchange answers each reading before it takes the next.
func (s *service) Exchange(both grpc.BidiStreamingServer[readingsv1.ExchangeRequest, readingsv1.ExchangeResponse]) error {
	for {
		r, err := both.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		stored, err := s.record(both.Context(), r.GetReading())
		if err != nil {
			return err
		}
		if err := both.Send(&readingsv1.ExchangeResponse{Reading: stored}); err != nil {
			return err
		}
	}
}

// record stores a reading with what was consumed since the one before.
func (s *service) record(ctx context.Context, r *readingsv1.Reading) (*readingsv1.Reading, error) {
	if err := s.known(ctx, r.GetMeter()); err != nil {
		return nil, err
	}
	var stored *readingsv1.Reading
	err := s.db.query(ctx, func(columns []string) (err error) {
		stored, err = readingOf(r.GetMeter(), columns)
		return err
	}, `INSERT INTO meter_consumptions (meter_id, reading_date, total_kwh, consumed_kwh)
		SELECT d.id, $2::date, $3::numeric, $3::numeric - coalesce(max(c.total_kwh), 0)
		FROM devices d LEFT JOIN meter_consumptions c ON c.meter_id = d.id AND c.reading_date < $2::date
		WHERE d.serial = $1 GROUP BY d.id HAVING $3::numeric >= coalesce(max(c.total_kwh), 0)
		RETURNING reading_date, total_kwh, consumed_kwh, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`,
		r.GetMeter(), r.GetDate(), r.GetTotalKwh())
	if err == nil && stored == nil {
		err = refuse(codes.FailedPrecondition, "READING_BELOW_LAST", "meter "+r.GetMeter()+" showed more than "+r.GetTotalKwh()+" kWh before "+r.GetDate())
	}
	return stored, err
}

// known tells whether the company has the meter.
func (s *service) known(ctx context.Context, meter string) error {
	found := false
	err := s.db.query(ctx, func([]string) error { found = true; return nil },
		`SELECT 1 FROM devices d JOIN meters m ON m.device_id = d.id WHERE d.serial = $1`, meter)
	if err == nil && !found {
		err = refuse(codes.NotFound, "METER_NOT_FOUND", "there is no meter "+meter)
	}
	return err
}

func readingOf(meter string, columns []string) (*readingsv1.Reading, error) {
	created, err := time.Parse(time.RFC3339Nano, columns[3])
	if err != nil {
		return nil, err
	}
	return &readingsv1.Reading{
		Meter: meter, Date: columns[0], TotalKwh: columns[1], ConsumedKwh: columns[2], CreateTime: timestamppb.New(created),
	}, nil
}
